import re
from urllib.parse import urlencode

from benchmarkai.daemon.backends import (
    TIMEOUT,
    BackendBase,
    Unavailable,
    check_answer,
    option,
    secret,
    url,
)

_AMBIGUOUS = re.compile(r"\\[,= ]")


class Backend(BackendBase):
    """Write to InfluxDB, or to VictoriaMetrics.

    The name of the metric is the measurement, the value its field "value", the labels are the
    tags, and the time has nanoseconds. The database must exist.

    \b
      $ bai-daemon influxdb --url http://localhost:8086 --database benchmarks
      $ bai-daemon influxdb --database benchmarks --label run=42 -- ./my_benchmark.sh
    """

    options = [
        url("http://localhost:8086", "The server."),
        option("--database", "The database; of InfluxDB 2 the bucket.", required=True),
        option("--user", "The name of the user, with a password."),
        secret("--password", "the password"),
        secret("--token", "the token, instead of a user"),
    ]

    def __init__(self, url, database, user, password, token):
        import urllib3
        from influxdb_client import Point

        self._point = Point
        self._errors = urllib3.exceptions
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(total=TIMEOUT), retries=False, headers={}
        )
        # The API of InfluxDB 1, which 2 and 3 have too.
        self._url = url + "/write?" + urlencode({"db": database, "precision": "ns"})
        self._headers = {"Content-Type": "text/plain; charset=utf-8"}
        if token:
            self._headers["Authorization"] = "Token " + token
        elif user:
            self._headers.update(urllib3.make_headers(basic_auth="%s:%s" % (user, password or "")))

    def objection(self, metric):
        # https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/
        texts = [metric.name] + [text for label in metric.labels.items() for text in label]
        for text in texts:
            if text.endswith("\\") or any(mark in text for mark in "\n\r\t"):
                return (
                    "%r has a tab, a line break or a backslash at its end, which the line protocol "
                    "cannot hold" % text
                )
        if _AMBIGUOUS.search(metric.name):
            return "a backslash before a comma, a space or = is lost in the name of a measurement"
        if metric.name.startswith("#"):
            return "the line protocol takes a name that begins with # for a comment"
        if "time" in metric.labels:
            return "InfluxDB has no tag named time"
        return None

    def send(self, metrics):
        lines = []
        for metric in metrics:
            # Always a float: a field has one type, and the first value decides.
            point = self._point(metric.name).field("value", float(metric.value)).time(metric.time)
            for name, value in metric.labels.items():
                point.tag(name, value)
            lines.append(point.to_line_protocol())
        try:
            answer = self._pool.request(
                "POST", self._url, body="\n".join(lines).encode("utf-8"), headers=self._headers
            )
        except self._errors.HTTPError as error:
            failure = Unavailable(str(error))
        else:
            text = "%s: %s" % (self._url, answer.data.decode("utf-8", "replace"))
            check_answer(answer.status, text, answer.headers)
            if answer.status == 204:
                return
            failure = Unavailable("the answer is not one of InfluxDB: HTTP %d" % answer.status)
        raise failure
