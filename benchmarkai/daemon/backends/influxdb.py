import re
from typing import Any, Mapping, Optional, Sequence
from urllib.parse import urlencode

from benchmarkai.daemon.backends import base, http
from benchmarkai.daemon.backends.base import Unavailable
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.options import option, secret_option, url_option
from benchmarkai.daemon.series import SeriesCache

# https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/
_ESCAPED = str.maketrans({",": "\\,", " ": "\\ "})  # in a measurement
_ESCAPED_IN_TAGS = {**_ESCAPED, ord("="): "\\="}
_AMBIGUOUS = re.compile(r"\\[,= ]")
_UNWRITABLE = re.compile(r"[\n\r\t]|\\\Z")
_NAME_TAG = "metric"  # with --measurement


class Backend(base.Backend):
    """Write to InfluxDB or VictoriaMetrics.

    The name of a metric becomes the measurement, its value the field "value", its labels become
    tags, and its time has nanoseconds. The database must exist.

    With --measurement, all metrics are in that measurement, each with its name as the tag
    "metric". InfluxDB 3 Core needs this for many names: a measurement is a table there, and all
    databases together have at most 2000 of them.

    \b
      $ bai-daemon influxdb --url http://localhost:8086 --database benchmarks
      $ bai-daemon influxdb --database benchmarks --label run=42 -- ./my_benchmark.sh
    """

    options = [
        url_option("http://localhost:8086", "The server."),
        option("--database", "The database; the bucket in InfluxDB 2.", required=True),
        option(
            "--measurement",
            "One measurement for all metrics, with their names as the tag metric.",
            metavar="NAME",
        ),
        secret_option("--token", "the token, in place of a user", is_ascii=True),
        *http.OPTIONS,
    ]
    place = ["url", "database", "measurement"]

    _measurement: Optional[str] = None

    def __init__(
        self,
        url: str,
        database: str,
        token: Optional[str],
        measurement: Optional[str] = None,
        **connection: Any,
    ) -> None:
        reason = None if measurement is None else _reason_to_reject_measurement(measurement)
        if reason:
            raise ValueError(f"--measurement {measurement!r} cannot be sent: {reason}")
        self._measurement = measurement
        self._starts = SeriesCache(self._start_line)
        self._client = http.Client(url, f"Token {token}" if token else None, **connection)
        # The API of InfluxDB 1, which InfluxDB 2 and 3 have too.
        self._path = "/write?" + urlencode({"db": database, "precision": "ns"})

    def reason_to_reject_labels(self, labels: Mapping[str, str]) -> Optional[str]:
        for label in labels.items():
            for text in label:
                reason = _reason_to_reject_tag(text)
                if reason:
                    return reason
        if "__name__" in labels:
            return "VictoriaMetrics takes a tag named __name__ for the name of the metric"
        if "time" in labels:
            return "InfluxDB does not allow a tag named time"
        if "value" in labels:
            return "the label 'value' has the name of the field with the value: rename it"
        if self._measurement is not None and _NAME_TAG in labels:
            return (
                f"the label {_NAME_TAG!r} has the name of the tag with the metric's name, because "
                "of --measurement: rename it"
            )
        return None

    def reason_to_reject_name(self, name: str) -> Optional[str]:
        if self._measurement is not None:
            return _reason_to_reject_tag(name)
        return _reason_to_reject_measurement(name)

    def send(self, metrics: Sequence[Metric]) -> None:
        lines = "\n".join(
            # Always a float: the first value decides on the type of the field.
            f"{start}{repr(float(metric.value)).removesuffix('.0')} {metric.time}"
            for start, metric in zip(self._starts.of_each(metrics), metrics)
        )
        response = self._client.post(self._path, lines.encode(), "text/plain; charset=utf-8")
        if response.status != 204:
            raise Unavailable(
                f"unexpected response, HTTP {response.status}; is this an InfluxDB server?"
            )

    def _start_line(self, name: str, labels: Mapping[str, str]) -> str:
        """Return the line of a metric up to its value."""
        if self._measurement is None:
            measurement, tags = name, labels
        else:
            # A tag keeps the series apart. With a field for each name, most would be empty.
            measurement, tags = self._measurement, {**labels, _NAME_TAG: name}
        words = [measurement.translate(_ESCAPED)]
        for tag in sorted(tags.items()):  # in the order that InfluxDB advises
            if all(tag):  # it rejects tags without a value
                words.append("=".join(text.translate(_ESCAPED_IN_TAGS) for text in tag))
        return ",".join(words) + " value="


def _reason_to_reject_measurement(name: str) -> Optional[str]:
    if _UNWRITABLE.search(name):
        return _unwritable(name)
    if _AMBIGUOUS.search(name):
        return (
            "its name has a backslash before a comma, a space or =, which the line protocol drops"
        )
    if name.startswith("#"):
        return "its name starts with #, which starts a comment in the line protocol"
    return None


def _reason_to_reject_tag(text: str) -> Optional[str]:
    if _UNWRITABLE.search(text):
        return _unwritable(text)
    if _AMBIGUOUS.search(text):
        # VictoriaMetrics drops the line, and answers as if it had not.
        return (
            f"{text!r} has a backslash before a comma, a space or =, which VictoriaMetrics and "
            "InfluxDB read differently"
        )
    return None


def _unwritable(text: str) -> str:
    return (
        f"{text!r} has a tab, a line break or a backslash at its end, which the line protocol "
        "cannot express"
    )
