import base64
import http.client
import re
import urllib.error
import urllib.request

from benchmarkai.daemon.backends import (
    TIMEOUT,
    BackendBase,
    Unavailable,
    check_answer,
    option,
    secret,
    url,
)

# https://prometheus.io/docs/concepts/data_model/
_NOT_IN_NAMES = re.compile("[^a-zA-Z0-9_:]")
_LABEL = re.compile("(?!__)[a-zA-Z_][a-zA-Z0-9_]*$")


class Backend(BackendBase):
    """Push to a Pushgateway, for Prometheus.

    Each metric is a gauge. A Pushgateway has the last value of each metric only: for each single
    value of a fast benchmark take another backend. Labels become the grouping key. In names, what
    Prometheus does not take becomes "_"; the help text of the gauge has the name as it was.

    \b
      $ bai-daemon prometheus --gateway http://localhost:9091 --job alexnet
      $ bai-daemon prometheus --label run=42 -- ./my_benchmark.sh
    """

    options = [
        url("http://localhost:9091", "The Pushgateway.", name="--gateway"),
        option("--job", "The label job.", default="benchmark", show_default=True),
        option("--user", "The name of the user, with a password."),
        secret("--password", "the password"),
    ]

    def __init__(self, gateway, job, user, password):
        import prometheus_client

        self._client = prometheus_client
        self._gateway = gateway
        self._job = job
        self._user = user
        self._password = password or ""
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._originals = {}  # names as they were, by the names that they become

    def objection(self, metric):
        for name in metric.labels:
            if not _LABEL.match(name):
                return (
                    "the label %r cannot be one of Prometheus: write it with letters, digits and _"
                    % name
                )
            if name == "job":
                return "the label job is that of --job"
        valid = _valid(metric.name)
        if metric.id and self._originals.setdefault(valid, metric.name) != metric.name:
            return "it would become %s, which is %r already: rename it" % (
                valid,
                self._originals[valid],
            )
        return None

    def send(self, metrics):
        groups = {}
        for metric in metrics:
            labels = tuple(sorted(metric.labels.items()))
            groups.setdefault(labels, {})[metric.name] = metric.value
        for labels, values in groups.items():
            registry = self._client.CollectorRegistry()
            for name, value in values.items():
                gauge = self._client.Gauge(_valid(name), name, registry=registry)
                gauge.set(value)
            self._push(registry, dict(labels))

    def _push(self, registry, labels):
        try:
            self._client.pushadd_to_gateway(
                self._gateway, self._job, registry, labels, TIMEOUT, self._handler
            )
            return
        except urllib.error.HTTPError as error:
            failure = error
        except (OSError, http.client.HTTPException) as error:
            failure = Unavailable("%s: %s" % (self._gateway, error))
        if isinstance(failure, Unavailable):
            raise failure
        try:
            text = failure.read(1000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            text = failure.reason
        check_answer(failure.code, text, failure.headers)

    def _handler(self, url, method, timeout, headers, data):
        def handle():
            request = urllib.request.Request(url, data, dict(headers), method=method)
            if self._user:
                credentials = base64.b64encode(("%s:%s" % (self._user, self._password)).encode())
                request.add_header("Authorization", "Basic " + credentials.decode("ascii"))
            self._opener.open(request, timeout=timeout).close()

        return handle


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirected, a POST becomes a GET, and its answer says nothing of the metrics."""

    def redirect_request(self, *arguments):
        return None


def _valid(name):
    valid = _NOT_IN_NAMES.sub("_", name)
    return "_" + valid if valid[0].isdigit() else valid
