import http.client
import re
import urllib.error
import urllib.request
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from benchmarkai.daemon.backends import base
from benchmarkai.daemon.backends.base import Unavailable
from benchmarkai.daemon.backends.http import TIMEOUT, basic_auth, error_for
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.options import option, secret_option, url_option, user_option

# https://prometheus.io/docs/concepts/data_model/
_INVALID_IN_NAMES = re.compile("[^a-zA-Z0-9_:]")
# A Pushgateway sets these itself for each group, in place of what is pushed, or rejects the push.
_RESERVED = ("push_time_seconds", "push_failure_time_seconds")
_LABEL = re.compile("(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class Backend(base.Backend):
    """Push to a Pushgateway, for Prometheus.

    Each metric becomes a gauge. A Pushgateway keeps only the last value of each: if every single
    value of a fast benchmark counts, use another backend. Labels become the grouping key.
    Characters that Prometheus does not allow in names become "_"; the help text of the gauge has
    the original name.

    \b
      $ bai-daemon prometheus --gateway http://localhost:9091 --job alexnet
      $ bai-daemon prometheus --label run=42 -- ./my_benchmark.sh
    """

    options = [
        url_option("http://localhost:9091", "The Pushgateway.", name="--gateway"),
        option("--job", "The label job.", default="benchmark", show_default=True),
        user_option(),
        secret_option("--password", "the password"),
    ]

    def __init__(
        self, gateway: str, job: str, user: Optional[str], password: Optional[str]
    ) -> None:
        import prometheus_client

        self._client = prometheus_client
        self._gateway = gateway
        self._job = job
        self._headers = {"Authorization": basic_auth(user, password)} if user else {}
        self._opener = urllib.request.build_opener(_NoRedirects)
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

    def reason_to_reject(self, metric: Metric) -> Optional[str]:
        valid = _valid_name(metric.name)
        if valid in _RESERVED:
            return f"the Pushgateway has its own metric {valid}: rename it"
        original = self._originals.setdefault(valid, metric.name)
        if original != metric.name:
            return f"it would become {valid}, like {original!r} before it: rename it"
        return None

    def send(self, metrics: Sequence[Metric]) -> None:
        groups: Dict[Tuple[Tuple[str, str], ...], Dict[str, Any]] = {}
        for metric in metrics:
            labels = tuple(sorted(metric.labels.items()))
            groups.setdefault(labels, {})[metric.name] = metric.value
        for labels, values in groups.items():
            registry = self._client.CollectorRegistry()
            for name, value in values.items():
                gauge = self._client.Gauge(_valid_name(name), name, registry=registry)
                gauge.set(value)
            self._push(registry, dict(labels))

    def _push(self, registry: Any, labels: Mapping[str, str]) -> None:
        try:
            self._client.pushadd_to_gateway(
                self._gateway, self._job, registry, labels, TIMEOUT, self._make_request
            )
        except urllib.error.HTTPError as error:
            failure = error_for(error.code, _body_of(error), error.headers)
            if failure is None:
                raise
            raise failure from error
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{self._gateway}: {error}") from error

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
            all_headers = {**dict(headers), **self._headers}
            request = urllib.request.Request(url, data, all_headers, method=method)
            with self._opener.open(request, timeout=timeout) as response:
                # A Pushgateway says nothing. A login page does.
                if response.read(1):
                    raise Unavailable(
                        f"unexpected response, HTTP {response.status}; is this a Pushgateway?"
                    )

        return send


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET, whose response says nothing about the metrics."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _body_of(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(1000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return error.reason


def _valid_name(name: str) -> str:
    valid = _INVALID_IN_NAMES.sub("_", name)
    return "_" + valid if valid[0].isdigit() else valid
