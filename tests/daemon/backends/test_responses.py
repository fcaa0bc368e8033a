"""What the responses of the servers mean, and what is sent: the backends without a daemon."""

import json
import os

import pytest

from benchmarkai.daemon import backends
from benchmarkai.daemon.backends import cloudwatch
from benchmarkai.daemon.backends.base import FatalError, Rejected, Unavailable
from benchmarkai.daemon.metric import Metric
from tests.daemon.backends.servers import AWS_CREDENTIALS, Proxy, Pushgateway, free_port, request
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


def test_influxdb_gets_a_line_for_each_metric(start_server):
    proxy = start_server(Proxy, None, lambda number: (204, {}))
    labelled = Metric("id", 10**18 + 1, "b", 0.5, {"run": "42"})
    assert make_backend("influxdb", proxy.url).send([metric("a", 1), labelled]) is None
    assert proxy.bodies == [
        b"a value=1 1000000000000000000\nb,run=42 value=0.5 1000000000000000001"
    ]


@pytest.mark.parametrize("status", [200, 202])
def test_what_no_influxdb_responds_is_not_a_delivery(start_server, status):
    proxy = start_server(Proxy, None, lambda number: (status, {}, LOGIN))
    with pytest.raises(Unavailable) as caught:
        make_backend("influxdb", proxy.url).send([metric("a")])
    message = f"unexpected response, HTTP {status}; is this an InfluxDB server?"
    assert str(caught.value) == message


def test_what_influxdb_rejects_has_its_reason(start_server):
    proxy = start_server(Proxy, None, lambda number: (400, {}, b"bad line"))
    with pytest.raises(Rejected) as caught:
        make_backend("influxdb", proxy.url).send([metric("a")])
    assert str(caught.value).endswith("precision=ns: bad line")


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


def error_from_cloudwatch(code, status, headers=None):
    exceptions = pytest.importorskip("botocore.exceptions", reason="pip install boto3")
    response = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return cloudwatch._error_for(exceptions.ClientError(response, "PutMetricData"))


@pytest.mark.parametrize(
    "code, status",
    [
        ("413", 413),
        ("InvalidParameterValue", 400),
        ("InvalidParameterCombination", 400),
        ("MissingParameter", 400),
        ("RequestEntityTooLarge", 400),
        ("ValidationError", 400),
    ],
)
def test_what_cloudwatch_rejects(code, status):
    error = error_from_cloudwatch(code, status, {"retry-after": "7"})
    assert type(error) is Rejected
    assert str(error).endswith(": no")


@pytest.mark.parametrize(
    "code, status",
    [
        ("", 400),
        ("Throttling", 400),
        ("AccessDenied", 403),
        ("InvalidClientTokenId", 403),
        ("412", 412),
        ("414", 414),
        ("422", 422),
        ("ServiceUnavailable", 503),
    ],
)
@pytest.mark.parametrize(
    "headers, seconds", [(None, None), ({}, None), ({"retry-after": "7"}, 7)], ids=str
)
def test_any_other_error_of_cloudwatch_is_worth_a_retry(code, status, headers, seconds):
    error = error_from_cloudwatch(code, status, headers)
    assert type(error) is Unavailable
    assert str(error).endswith(": no")
    assert error.retry_after == seconds


def test_an_error_of_cloudwatch_without_details_is_worth_a_retry():
    exceptions = pytest.importorskip("botocore.exceptions", reason="pip install boto3")
    error = cloudwatch._error_for(exceptions.ClientError({}, "PutMetricData"))
    assert type(error) is Unavailable
    assert error.retry_after is None


@pytest.fixture
def make_cloudwatch(monkeypatch):
    """A function that makes a backend which takes the server at a URL for CloudWatch."""

    def call(url):
        for name, value in AWS_CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        return cloudwatch.Backend("BenchmarkAI", "eu-west-1")

    return call


def test_busy_cloudwatch_is_asked_once_and_says_when_to_ask_again(start_server, make_cloudwatch):
    proxy = start_server(Proxy, None, lambda number: (503, {"Retry-After": "7"}, b""))
    with pytest.raises(Unavailable) as caught:
        make_cloudwatch(proxy.url).send([metric("a")])
    assert caught.value.retry_after == 7
    assert len(proxy.bodies) == 1


def test_what_cloudwatch_does_not_respond_is_not_a_delivery(start_server, make_cloudwatch):
    proxy = start_server(Proxy, None, lambda number: (200, {}, b""))
    with pytest.raises(Unavailable) as caught:
        make_cloudwatch(proxy.url).send([metric("a")])
    assert str(caught.value) == "unexpected response; is this CloudWatch?"


def test_cloudwatch_that_is_down_is_worth_a_retry(make_cloudwatch):
    with pytest.raises(Unavailable, match="Could not connect"):
        make_cloudwatch(f"http://127.0.0.1:{free_port()}").send([metric("a")])


def test_cloudwatch_gets_at_most_1000_metrics_at_once():
    assert cloudwatch.Backend.max_batch_size == 1000


def test_stdout_without_a_reader_ends_the_daemon(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", closefd=False) as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        with pytest.raises(FatalError) as caught:
            backends.load("stdout")().send([metric("a")])
    os.close(writing)
    assert str(caught.value) == "cannot write to stdout: Broken pipe"
