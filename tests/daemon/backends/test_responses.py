"""What the responses of the servers mean, and what is sent: the backends without a daemon."""

import pytest

from benchmarkai.daemon import backends
from benchmarkai.daemon.backends.base import Unavailable
from benchmarkai.daemon.metric import Metric
from tests.daemon.backends.servers import Proxy, Pushgateway, request

LOGIN = b"<html>Please log in</html>"


def metric(name, value=1):
    return Metric("id " + name, 10**18, name, value, {})


def make_backend(name, url):
    options = {
        "prometheus": {"gateway": url, "job": "job"},
        "elasticsearch": {"url": url, "index": "index", "api_key": None},
        "opensearch": {"url": url, "index": "index"},
    }
    return backends.load(name)(user=None, password=None, **options[name])


@pytest.mark.parametrize("status", [200, 202])
def test_a_pushgateway_responds_with_200_or_202_and_nothing_else(start_server, status):
    proxy = start_server(Proxy, None, lambda number: (status, {}, b""))
    assert make_backend("prometheus", proxy.url).send([metric("a")]) is None


@pytest.mark.parametrize(
    "status, body", [(200, LOGIN), (202, LOGIN), (200, b"\n"), (201, b""), (204, b""), (299, LOGIN)]
)
def test_what_no_pushgateway_responds_is_not_a_delivery(start_server, status, body):
    proxy = start_server(Proxy, None, lambda number: (status, {}, body))
    with pytest.raises(Unavailable) as caught:
        make_backend("prometheus", proxy.url).send([metric("a")])
    assert str(caught.value) == f"unexpected response, HTTP {status}; is this a Pushgateway?"


@pytest.mark.parametrize("options", [[], ["--push.disable-consistency-check"]])
def test_metrics_are_delivered_to_a_pushgateway_with_and_without_checks(start_server, options):
    gateway = start_server(Pushgateway, options)
    make_backend("prometheus", gateway.url).send([metric("a", 0.42)])
    assert 'a{instance="",job="job"} 0.42\n' in request(gateway.url + "/metrics")
