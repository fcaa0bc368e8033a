import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from benchmarkai.daemon.backends import base, http
from benchmarkai.daemon.backends.base import Answer, Unavailable
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.options import option, url_option

# https://prometheus.io/docs/concepts/data_model/
_INVALID_IN_NAMES = re.compile("[^a-zA-Z0-9_:]")
# A Pushgateway sets these itself for each group, in place of what is pushed, or rejects the push.
_RESERVED = ("push_time_seconds", "push_failure_time_seconds")
_LABEL = re.compile("(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class Backend(base.Backend):
    """Push to a Pushgateway, for Prometheus.

    For the last result of a job: a Pushgateway keeps one value of each gauge, without its time. For
    series, use otlp, which Prometheus 3 takes itself. Labels become the grouping key; a group stays
    until somebody deletes it, so give no label that is another one for each run. Characters that
    Prometheus does not allow in names become "_"; the help text of the gauge has the original name.

    \b
      $ bai-daemon prometheus --gateway http://localhost:9091 --job alexnet
      $ bai-daemon prometheus --job alexnet --label host=$(hostname) -- ./my_benchmark.sh
    """

    options = [
        url_option("http://localhost:9091", "The Pushgateway.", name="--gateway"),
        option("--job", "The value of the label job.", default="benchmark", show_default=True),
        *http.OPTIONS,
    ]
    place = ["gateway", "job"]

    def __init__(self, gateway: str, job: str, **connection: Any) -> None:
        import prometheus_client

        self._prometheus = prometheus_client
        self._gateway = gateway
        self._job = job
        # Not all Pushgateways know gzip.
        self._client = http.Client(gateway, compress=False, **connection)
        self._originals: Dict[str, str] = {}  # names of metrics, by their names in Prometheus

    def reason_to_reject_labels(self, labels: Mapping[str, str]) -> Optional[str]:
        for name in labels:
            if not _LABEL.fullmatch(name):
                return (
                    f"Prometheus does not allow the label {name!r}: use letters, digits and _ only"
                )
            if name == "job":
                return "the label job is set by --job"
        return None

    def reason_to_reject_name(self, name: str) -> Optional[str]:
        valid = _valid_name(name)
        if valid in _RESERVED:
            return f"the Pushgateway has its own metric {valid}: rename it"
        original = self._originals.setdefault(valid, name)
        if original != name:
            return f"it would become {valid}, like {original!r} before it: rename it"
        return None

    def send(self, metrics: Sequence[Metric]) -> Optional[Answer]:
        labels = metrics[0].labels
        values = {metric.name: metric.value for metric in metrics if metric.labels == labels}
        registry = self._prometheus.CollectorRegistry()
        for name, value in values.items():
            gauge = self._prometheus.Gauge(_valid_name(name), name, registry=registry)
            gauge.set(value)
        self._prometheus.pushadd_to_gateway(
            self._gateway, self._job, registry, dict(labels), handler=self._make_request
        )
        # A request is for one group.
        rest = [metric for metric in metrics if metric.labels != labels]
        return Answer(postponed=rest) if rest else None

    def _make_request(
        self,
        url: str,
        method: str,
        timeout: Optional[float],
        headers: List[Tuple[str, str]],
        data: bytes,
    ) -> Callable[[], None]:
        """Return the function that sends the request: a handler of prometheus_client."""

        def send() -> None:
            path = url[len(self._gateway) :]
            response = self._client.request(method, path, data, dict(headers))
            self._client.raise_failure(path, response)
            # A Pushgateway says nothing. A login page does.
            if response.data:
                raise Unavailable(
                    f"unexpected response, HTTP {response.status}; is this a Pushgateway?"
                )

        return send


def _valid_name(name: str) -> str:
    valid = _INVALID_IN_NAMES.sub("_", name)
    return "_" + valid if valid[0].isdigit() else valid
