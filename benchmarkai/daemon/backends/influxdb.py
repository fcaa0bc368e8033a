import re
from typing import Any, Mapping, Optional, Sequence
from urllib.parse import urlencode

from benchmarkai.daemon.backends import base, http
from benchmarkai.daemon.backends.base import Unavailable
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.options import option, secret_option, url_option

_AMBIGUOUS = re.compile(r"\\[,= ]")


class Backend(base.Backend):
    """Write to InfluxDB or VictoriaMetrics.

    The name of a metric becomes the measurement, its value the field "value", its labels become
    tags, and its time has nanoseconds. The database must exist.

    \b
      $ bai-daemon influxdb --url http://localhost:8086 --database benchmarks
      $ bai-daemon influxdb --database benchmarks --label run=42 -- ./my_benchmark.sh
    """

    options = [
        url_option("http://localhost:8086", "The server."),
        option("--database", "The database; the bucket in InfluxDB 2.", required=True),
        secret_option("--token", "the token, in place of a user", is_ascii=True),
        *http.OPTIONS,
    ]
    place = ["url", "database"]

    def __init__(self, url: str, database: str, token: Optional[str], **connection: Any) -> None:
        from influxdb_client import Point

        self._point = Point
        self._client = http.Client(url, f"Token {token}" if token else None, **connection)
        # The API of InfluxDB 1, which InfluxDB 2 and 3 have too.
        self._path = "/write?" + urlencode({"db": database, "precision": "ns"})

    def reason_to_reject_labels(self, labels: Mapping[str, str]) -> Optional[str]:
        for label in labels.items():
            for text in label:
                if _is_unwritable(text):
                    return _unwritable(text)
        if "time" in labels:
            return "InfluxDB does not allow a tag named time"
        return None

    def reason_to_reject(self, metric: Metric) -> Optional[str]:
        # https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/
        if _is_unwritable(metric.name):
            return _unwritable(metric.name)
        if _AMBIGUOUS.search(metric.name):
            return (
                "its name has a backslash before a comma, a space or =, which the line protocol "
                "drops"
            )
        if metric.name.startswith("#"):
            return "its name starts with #, which starts a comment in the line protocol"
        return None

    def send(self, metrics: Sequence[Metric]) -> None:
        lines = []
        for metric in metrics:
            # Always a float: the first value decides on the type of the field.
            point = self._point(metric.name).field("value", float(metric.value)).time(metric.time)
            for name, value in metric.labels.items():
                point.tag(name, value)
            lines.append(point.to_line_protocol())
        body = "\n".join(lines).encode("utf-8")
        response = self._client.post(self._path, body, "text/plain; charset=utf-8")
        if response.status != 204:
            raise Unavailable(
                f"unexpected response, HTTP {response.status}; is this an InfluxDB server?"
            )


def _is_unwritable(text: str) -> bool:
    return text.endswith("\\") or any(character in text for character in "\n\r\t")


def _unwritable(text: str) -> str:
    return (
        f"{text!r} has a tab, a line break or a backslash at its end, which the line protocol "
        "cannot express"
    )
