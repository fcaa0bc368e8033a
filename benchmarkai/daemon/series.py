"""Names that end in labels, in the notation of Prometheus: latency{model="alexnet"}.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details
"""

import re
from typing import Callable, Dict, Generic, List, Mapping, Sequence, Tuple, TypeVar

from benchmarkai.daemon.metric import Metric

# A blank can be matched in one way only. Otherwise a long name could take for ever.
_VALUE = r'"((?:[^"\\\n]|\\[\\"n])*)"'
_LABEL = rf"(?:([a-zA-Z_][a-zA-Z0-9_]*)|{_VALUE})[ \t]*=[ \t]*{_VALUE}[ \t]*"
_LABELS = rf"\{{[ \t]*(?:{_LABEL}(?:,[ \t]*{_LABEL})*(?:,[ \t]*)?)?\}}"
_find_label = re.compile(_LABEL).finditer
_are_labels = re.compile(_LABELS).fullmatch
_ESCAPE = re.compile(r"\\(.)")

_MAX_KNOWN = 10000  # names with labels that are remembered
_MAX_NAME = 256  # characters of those

Found = TypeVar("Found")


def split_name(text: str) -> Tuple[str, Dict[str, str]]:
    """Return the name that the text begins with, and the labels that it ends in.

    A text that does not end in well-formed labels, or has nothing before them, is a name. So is
    one with the label __name__, which to Prometheus is the name.
    """
    start = text.find("{") if text.endswith("}") else -1
    while start >= 0:
        name = text[:start].rstrip(" \t")
        if name and _are_labels(text, start):
            labels: Dict[str, str] = {}
            for plain, quoted, value in (match.groups() for match in _find_label(text, start)):
                label = plain or _unescape(quoted)
                if label in ("", "__name__") or label in labels:
                    return text, {}
                labels[label] = _unescape(value)
            return name, labels
        start = text.find("{", start + 1)
    return text, {}


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], text)


class SeriesCache(Generic[Found]):
    """Remembers what a function returns for a name and labels, which few metrics have alone.

    Labels are compared as objects: the spool has one object for all metrics with the same labels.
    """

    def __init__(self, function: Callable[[str, Mapping[str, str]], Found]) -> None:
        self._function = function
        self._known: Dict[Tuple[str, int], Found] = {}  # by name, and by the id of labels
        self._labels: Dict[int, Mapping[str, str]] = {}  # kept, so that nothing else has their id

    def of_each(self, metrics: Sequence[Metric]) -> List[Found]:
        """Return what the function returns for the name and the labels of each metric."""
        known = self._known
        try:
            return [known[metric.name, id(metric.labels)] for metric in metrics]
        except KeyError:
            return [self._of(metric.name, metric.labels) for metric in metrics]

    def _of(self, name: str, labels: Mapping[str, str]) -> Found:
        key = (name, id(labels))
        if key in self._known:
            return self._known[key]
        found = self._function(name, labels)
        if len(name) <= _MAX_NAME:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
                self._labels.clear()
            self._known[key] = found
            self._labels[id(labels)] = labels
        return found


class NameLabels:
    """Reads the labels in the names of metrics."""

    def __init__(self) -> None:
        self._cache = SeriesCache(_read_labels)

    def read(self, metrics: Sequence[Metric]) -> Sequence[Metric]:
        """Return the metrics with the labels in their names over their others.

        A label that is empty is the same as none.
        """
        if not any(metric.name[-1] == "}" for metric in metrics):
            return metrics
        return [
            metric if labels is metric.labels else metric._replace(name=name, labels=labels)
            for metric, (name, labels) in zip(metrics, self._cache.of_each(metrics))
        ]


def _read_labels(text: str, labels: Mapping[str, str]) -> Tuple[str, Mapping[str, str]]:
    name, own = split_name(text)
    if name == text:
        return name, labels
    return name, {label: value for label, value in {**labels, **own}.items() if value}
