"""What the responses of the servers mean, and what is sent: the backends without a daemon."""

import json

import pytest

from benchmarkai.daemon import backends
from benchmarkai.daemon.backends.base import Rejected, Unavailable
from benchmarkai.daemon.metric import Metric
from tests.daemon.backends.servers import Proxy, Pushgateway, request
from tests.daemon.harness import run_daemon
from tests.helpers import BAI_EMIT

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
    assert 'a{instance="",job="job"} 0.42\n' in request(gateway.url + "/metrics")


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
