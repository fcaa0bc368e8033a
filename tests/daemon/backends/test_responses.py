"""What the responses of the servers mean, and what is sent: the backends without a daemon."""

import json
import os

import pytest

from benchmarkai.daemon import backends
from benchmarkai.daemon.backends.base import FatalError, Unavailable
from benchmarkai.daemon.metric import Metric
from tests.daemon.backends.servers import Proxy, Pushgateway, free_port, request
from tests.daemon.harness import run_daemon
from tests.helpers import BAI_EMIT, wait_until

LOGIN = b"<html>Please log in</html>"


def metric(name, value=1):
    return Metric("id " + name, 10**18, name, value, {})


def make_backend(name, url):
    options = {
        "prometheus": {"gateway": url, "job": "job"},
        "elasticsearch": {"url": url, "index": "index"},
        "opensearch": {"url": url, "index": "index"},
        "influxdb": {"url": url, "database": "benchmarks", "token": None},
    }
    return backends.load(name)(user=None, password=None, **options[name])


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_success_without_a_body_is_a_delivery(start_server, status):
    proxy = start_server(Proxy, None, lambda number: (status, {}, b""))
    assert make_backend("prometheus", proxy.url).send([metric("a")]) is None


@pytest.mark.parametrize("status, body", [(200, LOGIN), (202, LOGIN), (200, b"\n"), (299, LOGIN)])
def test_what_no_pushgateway_responds_is_not_a_delivery(start_server, status, body):
    proxy = start_server(Proxy, None, lambda number: (status, {}, body))
    with pytest.raises(Unavailable) as caught:
        make_backend("prometheus", proxy.url).send([metric("a")])
    assert str(caught.value) == f"unexpected response, HTTP {status}; is this a Pushgateway?"


@pytest.mark.parametrize("options", [[], ["--push.disable-consistency-check"]])
def test_metrics_are_delivered_to_a_pushgateway_with_and_without_checks(start_server, options):
    gateway = start_server(Pushgateway, options)
    make_backend("prometheus", gateway.url).send([metric("a", 0.42)])
    line = 'a{instance="",job="job"} 0.42\n'
    # Without the check, the Pushgateway responds before it has stored the metric.
    wait_until(lambda: line in request(gateway.url + "/metrics"))


def test_a_line_on_stdout_has_the_exact_integer():
    values = [2**60 + 1, -(2**63), 10**30 + 1]
    words = [f"n{number}={value}" for number, value in enumerate(values)]
    result = run_daemon("stdout", "--", BAI_EMIT, *words)
    assert [json.loads(line)["value"] for line in result.out.splitlines()] == values


BULK_BACKENDS = ["elasticsearch", "opensearch"]


@pytest.mark.parametrize("name", ["influxdb", "prometheus", *BULK_BACKENDS])
def test_a_server_that_is_down_is_worth_a_retry(name):
    with pytest.raises(Unavailable, match="refused|Connection error"):
        make_backend(name, f"http://127.0.0.1:{free_port()}").send([metric("a")])


@pytest.mark.parametrize("name", ["influxdb", "prometheus", *BULK_BACKENDS])
def test_a_busy_server_is_asked_once(start_server, name):
    proxy = start_server(Proxy, None, lambda number: (503, {"Retry-After": "7"}))
    with pytest.raises(Unavailable):
        make_backend(name, proxy.url).send([metric("a")])
    assert len(proxy.bodies) == 1


@pytest.mark.parametrize("name", ["influxdb", "prometheus", *BULK_BACKENDS])
def test_a_busy_server_says_when_to_ask_again(start_server, name):
    proxy = start_server(Proxy, None, lambda number: (503, {"Retry-After": "7"}))
    with pytest.raises(Unavailable) as caught:
        make_backend(name, proxy.url).send([metric("a")])
    assert caught.value.retry_after == 7


def test_stdout_without_a_reader_ends_the_daemon(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", closefd=False) as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        with pytest.raises(FatalError) as caught:
            backends.load("stdout")().send([metric("a")])
    os.close(writing)
    assert str(caught.value) == "cannot write to stdout: Broken pipe"
