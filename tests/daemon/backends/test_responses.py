"""What the responses of the servers mean, and what is sent: the backends without a daemon."""

import json
import os

import pytest

from benchmarkai.daemon import backends
from benchmarkai.daemon.backends import otlp
from benchmarkai.daemon.backends.base import FatalError, Rejected, Unavailable
from benchmarkai.daemon.metric import Metric
from tests.daemon.backends.servers import Proxy, Pushgateway, free_port, request
from tests.daemon.harness import run_daemon
from tests.helpers import BAI_EMIT, wait_until

PRODUCT = {"X-Elastic-Product": "Elasticsearch", "Content-Type": "application/json"}
OK = b'{"items": [{"create": {"status": 201}}]}'
LOGIN = b"<html>Please log in</html>"


def metric(name, value=1):
    return Metric("id " + name, 10**18, name, value, {})


def make_backend(name, url):
    options = {
        "prometheus": {"gateway": url, "job": "job"},
        "elasticsearch": {"url": url, "index": "index", "api_key": None},
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


@pytest.mark.parametrize("name", ["elasticsearch", "opensearch"])
def test_a_document_has_the_exact_integer(start_server, name):
    proxy = start_server(Proxy, None, lambda number: (200, PRODUCT, OK))
    values = [2**60 + 1, -(2**63), 10**30 + 1]
    for value in values:
        make_backend(name, proxy.url).send([metric("a", value)])
    documents = [json.loads(body.splitlines()[1]) for body in proxy.bodies if b'"_id"' in body]
    assert [document["value"] for document in documents] == values


def test_a_line_on_stdout_has_the_exact_integer():
    values = [2**60 + 1, -(2**63), 10**30 + 1]
    words = [f"n{number}={value}" for number, value in enumerate(values)]
    result = run_daemon("stdout", "--", BAI_EMIT, *words)
    assert [json.loads(line)["value"] for line in result.out.splitlines()] == values


@pytest.mark.parametrize(
    "value, kind",
    [
        (0, "as_int"),
        (2**60 + 1, "as_int"),
        (2**63 - 1, "as_int"),
        (-(2**63), "as_int"),
        (2**63, "as_double"),
        (-(2**63) - 1, "as_double"),
        (10**300, "as_double"),
        (1.0, "as_double"),
        (0.1, "as_double"),
    ],
)
def test_otlp_has_the_exact_integer_if_64_bits_hold_it(start_server, value, kind):
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

    proxy = start_server(Proxy, None, lambda number: (200, {}, b""))
    backends.load("otlp")(proxy.url).send([metric("a", value)])
    (body,) = proxy.bodies
    sent = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
    (point,) = sent.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points
    assert point.WhichOneof("value") == kind
    assert getattr(point, kind) == (value if kind == "as_int" else float(value))


BULK_BACKENDS = ["elasticsearch", "opensearch"]
BAD_REQUEST = json.dumps({"error": {"type": "bad", "reason": "no"}, "status": 400}).encode()


def index_exists(number):
    """The response to the first request, which creates the index; None for the others."""
    return (200, PRODUCT, b"{}") if number == 1 else None


@pytest.mark.parametrize("name", BULK_BACKENDS)
@pytest.mark.parametrize("status", [400, 422])
def test_a_bulk_request_that_is_rejected_as_a_whole_is_worth_a_retry(start_server, name, status):
    response = (status, PRODUCT, BAD_REQUEST)
    proxy = start_server(Proxy, None, lambda number: index_exists(number) or response)
    with pytest.raises(Unavailable) as caught:
        make_backend(name, proxy.url).send([metric("a"), metric("b")])
    assert str(caught.value).startswith(f"cannot write to the index 'index': HTTP {status}: ")


@pytest.mark.parametrize("name", BULK_BACKENDS)
def test_a_bulk_request_that_is_too_large_is_rejected_and_so_split(start_server, name):
    response = (413, PRODUCT, b'{"error": "too large"}')
    proxy = start_server(Proxy, None, lambda number: index_exists(number) or response)
    with pytest.raises(Rejected) as caught:
        make_backend(name, proxy.url).send([metric("a"), metric("b")])
    assert "HTTP 413: " in str(caught.value)


@pytest.mark.parametrize("name", BULK_BACKENDS)
@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_index_that_cannot_be_created_is_named(start_server, name, status):
    proxy = start_server(Proxy, None, lambda number: (status, PRODUCT, BAD_REQUEST))
    with pytest.raises(Unavailable) as caught:
        make_backend(name, proxy.url).send([metric("a")])
    assert str(caught.value).startswith(f"cannot create the index 'index': HTTP {status}: ")


@pytest.mark.parametrize("name", BULK_BACKENDS)
def test_an_index_is_created_once(start_server, name):
    proxy = start_server(Proxy, None, lambda number: index_exists(number) or (200, PRODUCT, OK))
    backend = make_backend(name, proxy.url)
    for _ in range(2):
        backend.send([metric("a")])
    assert ["mappings" in json.loads(body.splitlines()[0]) for body in proxy.bodies] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("name", BULK_BACKENDS)
def test_an_index_that_exists_is_used(start_server, name):
    error = {"type": "resource_already_exists_exception", "reason": "it exists"}
    exists = (400, PRODUCT, json.dumps({"error": error, "status": 400}).encode())
    proxy = start_server(Proxy, None, lambda number: exists if number == 1 else (200, PRODUCT, OK))
    assert make_backend(name, proxy.url).send([metric("a")]) == []


@pytest.mark.parametrize("name", BULK_BACKENDS)
@pytest.mark.parametrize("method", ["create_index", "bulk"])
def test_an_error_that_the_client_has_not_raised_passes_as_it_is(
    start_server, monkeypatch, name, method
):
    def fail(*arguments):
        raise bug

    bug = KeyError("a bug")
    proxy = start_server(Proxy, None, index_exists)
    backend = make_backend(name, proxy.url)
    monkeypatch.setattr(backend, method, fail)
    with pytest.raises(KeyError) as caught:
        backend.send([metric("a")])
    assert caught.value is bug


@pytest.mark.parametrize("name", BULK_BACKENDS)
def test_what_neither_elasticsearch_nor_opensearch_responds_is_not_a_delivery(start_server, name):
    login = (200, {"Content-Type": "text/html"}, LOGIN)
    proxy = start_server(Proxy, None, lambda number: index_exists(number) or login)
    with pytest.raises(Unavailable):
        make_backend(name, proxy.url).send([metric("a")])
    assert len(proxy.bodies) == 2


@pytest.mark.parametrize("name", ["influxdb", "prometheus", *BULK_BACKENDS])
def test_a_server_that_is_down_is_worth_a_retry(name):
    with pytest.raises(Unavailable, match="refused|Connection error"):
        make_backend(name, f"http://127.0.0.1:{free_port()}").send([metric("a")])


@pytest.mark.parametrize("name", ["influxdb", "prometheus", *BULK_BACKENDS])
def test_a_busy_server_is_asked_once(start_server, name):
    proxy = start_server(Proxy, None, lambda number: (503, {**PRODUCT, "Retry-After": "7"}))
    with pytest.raises(Unavailable):
        make_backend(name, proxy.url).send([metric("a")])
    assert len(proxy.bodies) == 1


@pytest.mark.parametrize("name", ["influxdb", "prometheus", "elasticsearch"])
def test_a_busy_server_says_when_to_ask_again(start_server, name):
    proxy = start_server(Proxy, None, lambda number: (503, {**PRODUCT, "Retry-After": "7"}))
    with pytest.raises(Unavailable) as caught:
        make_backend(name, proxy.url).send([metric("a")])
    assert caught.value.retry_after == 7


def test_what_an_otlp_collector_rejects_in_part_has_its_reason(start_server):
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

    response = metrics_service_pb2.ExportMetricsServiceResponse()
    response.partial_success.rejected_data_points = 1
    for text, reason in [("too old", "too old"), ("", "rejected by the collector")]:
        response.partial_success.error_message = text
        answer = (200, {}, response.SerializeToString())
        proxy = start_server(Proxy, None, lambda number, answer=answer: answer)
        with pytest.raises(Rejected) as caught:
            backends.load("otlp")(proxy.url).send([metric("a")])
        assert str(caught.value) == reason


def test_what_no_otlp_collector_responds_is_not_a_delivery(start_server):
    proxy = start_server(Proxy, None, lambda number: (200, {}, LOGIN))
    with pytest.raises(Unavailable) as caught:
        backends.load("otlp")(proxy.url).send([metric("a")])
    assert str(caught.value) == "unexpected response; is this an OTLP collector?"


def test_an_otlp_collector_that_is_down_is_worth_a_retry(monkeypatch):
    monkeypatch.setattr(otlp, "_TIMEOUT", 0.1)
    with pytest.raises(Unavailable) as caught:
        otlp.Backend(f"http://127.0.0.1:{free_port()}").send([metric("a")])
    assert str(caught.value) == "no response from the collector"


def test_a_lost_response_is_not_taken_for_the_one_before_it(start_server, monkeypatch):
    monkeypatch.setattr(otlp, "_TIMEOUT", 0.1)
    proxy = start_server(Proxy, None, lambda number: (200, {}, b"") if number == 1 else "drop")
    backend = otlp.Backend(proxy.url)
    assert backend.send([metric("a")]) is None
    with pytest.raises(Unavailable) as caught:
        backend.send([metric("b")])
    assert str(caught.value) == "no response from the collector"


def test_half_a_response_of_an_otlp_collector_is_not_a_delivery(start_server):
    collector = start_server(Proxy, None, lambda number: (200, {}, b""))
    proxy = start_server(Proxy, collector, lambda number: "half")
    with pytest.raises(Unavailable) as caught:
        otlp.Backend(proxy.url).send([metric("a")])
    assert str(caught.value) == "HTTP 200, but the export failed"


def test_what_an_otlp_collector_rejects_as_a_whole_has_its_reason(start_server):
    proxy = start_server(Proxy, None, lambda number: (400, {}, b"bad data"))
    with pytest.raises(Rejected) as caught:
        otlp.Backend(proxy.url).send([metric("a")])
    assert str(caught.value) == "HTTP 400: bad data"


def test_a_busy_otlp_collector_says_when_to_ask_again(start_server):
    # The exporter would wait itself, if this were less than its time-out.
    proxy = start_server(Proxy, None, lambda number: (503, {"Retry-After": "60"}))
    with pytest.raises(Unavailable) as caught:
        otlp.Backend(proxy.url).send([metric("a")])
    assert caught.value.retry_after == 60
    assert len(proxy.bodies) == 1


def test_a_redirection_by_an_otlp_collector_is_neither_followed_nor_a_delivery(start_server):
    responses = {1: (302, {"Location": "/login"}, b"")}
    proxy = start_server(Proxy, None, lambda number: responses.get(number, (200, {}, b"")))
    with pytest.raises(Unavailable) as caught:
        otlp.Backend(proxy.url).send([metric("a")])
    assert str(caught.value).startswith("HTTP 302:")
    assert len(proxy.bodies) == 1


def test_the_otlp_exporter_does_not_log_an_error_too(start_server, caplog):
    caplog.set_level("DEBUG", "opentelemetry")
    proxy = start_server(Proxy, None, lambda number: (400, {}, b"bad data"))
    with pytest.raises(Rejected):
        otlp.Backend(proxy.url).send([metric("a")])
    assert caplog.messages == []


def test_stdout_without_a_reader_ends_the_daemon(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", closefd=False) as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        with pytest.raises(FatalError) as caught:
            backends.load("stdout")().send([metric("a")])
    os.close(writing)
    assert str(caught.value) == "cannot write to stdout: Broken pipe"
