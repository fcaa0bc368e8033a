"""Names that end in labels, in the notation of Prometheus: latency{model="alexnet"}.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details
"""

import re
from typing import Dict, Mapping, Sequence, Tuple

from benchmarkai.daemon.metric import Metric

# A blank can be matched in one way only. Otherwise a long name could take for ever.
_VALUE = r'"((?:[^"\\\n]|\\[\\"n])*)"'
_LABEL = rf"(?:([a-zA-Z_][a-zA-Z0-9_]*)|{_VALUE})[ \t]*=[ \t]*{_VALUE}[ \t]*"
_LABELS = rf"\{{[ \t]*(?:{_LABEL}(?:,[ \t]*{_LABEL})*(?:,[ \t]*)?)?\}}"
_find_label = re.compile(_LABEL).finditer
_are_labels = re.compile(_LABELS).fullmatch
_ESCAPE = re.compile(r"\\(.)")

_MAX_KNOWN = 10000  # names that are remembered


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


class NameLabels:
    """Reads the labels in the names of metrics, and remembers what it has read."""

    def __init__(self) -> None:
        # By a name and the id of other labels. Those are in the value too, to keep the id taken.
        self._known: Dict[Tuple[str, int], Tuple[str, Mapping[str, str], Mapping[str, str]]] = {}

    def read(self, metrics: Sequence[Metric]) -> Sequence[Metric]:
        """Return the metrics with the labels in their names over their others.

        A label that is empty is the same as none.
        """
        if not any(metric.name[-1] == "}" for metric in metrics):
            return metrics
        return [self._read(metric) if metric.name[-1] == "}" else metric for metric in metrics]

    def _read(self, metric: Metric) -> Metric:
        key = (metric.name, id(metric.labels))
        found = self._known.get(key)
        if found is None:
            name, own = split_name(metric.name)
            labels: Mapping[str, str] = metric.labels
            if name != metric.name:
                labels = {label: text for label, text in {**labels, **own}.items() if text}
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            found = self._known[key] = (name, labels, metric.labels)
        return metric._replace(name=found[0], labels=found[1])
