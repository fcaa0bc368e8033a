"""OTLP: what a collector and Prometheus make of the requests, and what the responses mean."""

import gzip
import http.server
import os
import re
import socket
import uuid

import click
import pytest

from benchmarkai import __version__
from benchmarkai.daemon.backends import otlp
from benchmarkai.daemon.backends.base import Rejected, Unavailable
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.redaction import redact
from tests.daemon.backends.servers import FakeServer, Proxy, free_port, write_response
from tests.daemon.harness import PATH, run_daemon
from tests.helpers import BAI_EMIT, run

metrics_service_pb2 = pytest.importorskip(
    "opentelemetry.proto.collector.metrics.v1.metrics_service_pb2",
    reason="pip install opentelemetry-proto",
)

PROTOBUF = {"Content-Type": "application/x-protobuf"}
LOGIN = b"<html>Please log in</html>"
SPOOL = "5b5e0c9d1f6f4b7f9a64b9f7a1d3c2e1"  # the prefix of the ids of its metrics


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """Those of the machine that runs the tests do not count."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def partial_success(rejected, message=""):
    response = metrics_service_pb2.ExportMetricsServiceResponse()
    response.partial_success.rejected_data_points = rejected
    response.partial_success.error_message = message
    return (200, PROTOBUF, response.SerializeToString())


def attributes_of(message):
    """Return the attributes of a resource or a point, as the specification allows them.

    https://opentelemetry.io/docs/specs/otel/common/#attribute
    """
    names = [attribute.key for attribute in message.attributes]
    assert all(names)
    assert len(set(names)) == len(names)
    return {attribute.key: attribute.value.string_value for attribute in message.attributes}


class Collector:
    """Keeps the requests, and responds as told.

    respond: a function of the number of the request, from 1, for (status, headers, body).
    """

    def __init__(self, folder, respond=lambda number: (200, PROTOBUF, b"")):
        self.requests = []  # the messages
        self.paths = []
        self.headers = []
        self.respond = respond
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                message = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
                collector.requests.append(message)
                collector.paths.append(self.path)
                collector.headers.append(self.headers)
                write_response(self, *collector.respond(len(collector.requests)))

            def log_message(self, *arguments):
                pass

        self._server = FakeServer(Handler)
        self.url = self._server.url

    def stop(self):
        self._server.stop()

    def resources(self):
        """Return the attributes of the resources of all requests."""
        return [
            attributes_of(resource_metrics.resource)
            for request in self.requests
            for resource_metrics in request.resource_metrics
        ]

    def metrics(self):
        """Return the metrics of all requests."""
        return [
            metric
            for request in self.requests
            for resource_metrics in request.resource_metrics
            for scope_metrics in resource_metrics.scope_metrics
            for metric in scope_metrics.metrics
        ]

    def series(self):
        """Return what Prometheus makes of the requests: (milliseconds, value) by name and labels.

        The attributes of a resource become labels of target_info only, except that service.name
        is the label job of every series, and service.instance.id the label instance. Without
        those two, there is no target_info.
        https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
        Names keep their dots, as with translation_strategy: NoUTF8EscapingWithSuffixes.
        """
        found = {}
        for request in self.requests:
            for resource_metrics in request.resource_metrics:
                resource = attributes_of(resource_metrics.resource)
                names = {"service.name": "job", "service.instance.id": "instance"}
                identity = {names[key]: resource.pop(key) for key in names if key in resource}
                if identity:
                    target = {**resource, **identity}
                    found["target_info", frozenset(target.items())] = [1]
                for metric in resource_metrics.scope_metrics[0].metrics:
                    for point in metric.gauge.data_points:
                        labels = {**attributes_of(point), **identity}
                        value = float(getattr(point, point.WhichOneof("value")))
                        samples = found.setdefault((metric.name, frozenset(labels.items())), [])
                        samples.append((point.time_unix_nano // 10**6, value))
        return found


@pytest.fixture
def collector(start_server):
    return start_server(Collector)


def metric(name="a", value=1, labels=None, number=1, spool=SPOOL):
    return Metric(f"{spool}-{number}", 10**18 + number, name, value, labels or {})


def parse(*arguments):
    """Return the values of the options."""
    command = click.Command("otlp", params=list(otlp.Backend.options))
    return command.make_context("otlp", list(arguments)).params


def make_backend(url, *arguments):
    return otlp.Backend(**parse("--url", url, *arguments))


# What is sent


def test_a_metric_is_a_point_of_a_gauge(collector):
    assert make_backend(collector.url).send([metric("a b/ö", 0.5)]) is None
    assert collector.paths == ["/v1/metrics"]
    assert collector.headers[0]["Content-Type"] == "application/x-protobuf"
    (resource_metrics,) = collector.requests[0].resource_metrics
    (scope_metrics,) = resource_metrics.scope_metrics
    assert scope_metrics.scope.name == "benchmarkai"
    assert scope_metrics.scope.version == __version__
    (sent,) = scope_metrics.metrics
    assert (sent.name, sent.WhichOneof("data")) == ("a b/ö", "gauge")
    (point,) = sent.gauge.data_points
    assert (point.time_unix_nano, point.as_double) == (10**18 + 1, 0.5)
    # It is ignored for gauges: opentelemetry/proto/metrics/v1/metrics.proto
    assert point.start_time_unix_nano == 0


def test_labels_are_labels_of_the_series_in_prometheus(collector):
    metrics = [
        metric("a", 1, {"run": "42", "k8s.pod": "x"}, number=1),
        metric("a", 2, {"run": "43"}, number=10**6),
        metric("b", 0.5, {"run": "42", "k8s.pod": "x"}, number=2),
    ]
    make_backend(collector.url).send(metrics)
    series = collector.series()
    (target,) = [dict(labels) for name, labels in series if name == "target_info"]
    assert target.pop("host.name") == socket.gethostname()
    assert sorted(target) == ["instance", "job"]

    def samples(name, **labels):
        return series[name, frozenset({**labels, **target}.items())]

    assert len(series) == 4
    assert samples("a", run="42", **{"k8s.pod": "x"}) == [(10**12, 1)]
    assert samples("a", run="43") == [(10**12 + 1, 2)]
    assert samples("b", run="42", **{"k8s.pod": "x"}) == [(10**12, 0.5)]


def test_the_points_of_a_name_are_in_one_gauge_in_their_order(collector):
    labels = {"run": "42"}
    values = [3, 0.5, -1, 2.0]
    metrics = [metric("a", value, labels, number) for number, value in enumerate(values)]
    metrics.insert(2, metric("b", 7))
    make_backend(collector.url).send(metrics)
    assert len(collector.resources()) == 1
    a, b = collector.metrics()
    assert (a.name, b.name) == ("a", "b")
    points = [(point.WhichOneof("value"), point.time_unix_nano) for point in a.gauge.data_points]
    kinds = ["as_int", "as_double", "as_int", "as_double"]
    assert points == [(kind, 10**18 + number) for number, kind in enumerate(kinds)]
    assert all(attributes_of(point) == labels for point in a.gauge.data_points)


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
def test_an_integer_is_exact_if_64_bits_hold_it(collector, value, kind):
    make_backend(collector.url).send([metric("a", value)])
    (point,) = collector.metrics()[0].gauge.data_points
    assert point.WhichOneof("value") == kind
    assert getattr(point, kind) == (value if kind == "as_int" else float(value))


def test_a_label_without_a_name_is_rejected(collector):
    reason = "OTLP does not allow a label without a name"
    assert make_backend(collector.url).reason_to_reject_labels({"a": "", "": "b"}) == reason


COMPRESSION = "OTEL_EXPORTER_OTLP_COMPRESSION"
METRICS_COMPRESSION = "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION"


@pytest.mark.parametrize(
    "variables, encoding",
    [
        ({}, "gzip"),
        ({COMPRESSION: ""}, "gzip"),
        ({COMPRESSION: "gzip"}, "gzip"),
        ({COMPRESSION: "none"}, None),
        ({COMPRESSION: "none", METRICS_COMPRESSION: "gzip"}, "gzip"),
        ({COMPRESSION: "gzip", METRICS_COMPRESSION: "none"}, None),
    ],
)
def test_a_large_request_is_compressed(collector, monkeypatch, variables, encoding):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    metrics = [metric("a", number, number=number) for number in range(100)]
    make_backend(collector.url).send(metrics)
    assert collector.headers[0]["Content-Encoding"] == encoding
    assert len(collector.metrics()[0].gauge.data_points) == 100


# The resource


def test_the_resource_says_where_the_metrics_come_from(collector):
    make_backend(collector.url).send([metric()])
    (resource,) = collector.resources()
    assert uuid.UUID(resource.pop("service.instance.id")).version == 5
    assert resource == {"service.name": "benchmark", "host.name": socket.gethostname()}


def test_an_instance_is_a_spool(collector):
    other = SPOOL[::-1]
    make_backend(collector.url).send([metric("a"), metric("a", spool=other), metric("a")])
    make_backend(collector.url).send([metric("b", spool=other, number=7)])
    first, second, third = [resource["service.instance.id"] for resource in collector.resources()]
    assert first != second
    assert second == third
    assert [len(sent.gauge.data_points) for sent in collector.metrics()] == [2, 1, 1]


def test_the_instance_is_the_same_after_a_restart_with_the_same_spool(collector, tmp_path):
    for spool in ["one", "one", "two"]:
        arguments = ["--url", collector.url, "--spool", str(tmp_path / spool)]
        assert run_daemon("otlp", *arguments, "--", BAI_EMIT, "a=1").code == 0
    one, again, two = [resource["service.instance.id"] for resource in collector.resources()]
    assert one == again
    assert one != two


@pytest.mark.parametrize(
    "arguments, variables, name",
    [
        ([], {}, "benchmark"),
        ([], {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a"}, "a"),
        ([], {"OTEL_RESOURCE_ATTRIBUTES": "service.name="}, "benchmark"),
        ([], {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a", "OTEL_SERVICE_NAME": "b"}, "b"),
        ([], {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a", "OTEL_SERVICE_NAME": ""}, "a"),
        ([], {"OTEL_SERVICE_NAME": "b", "BAI_DAEMON_SERVICE_NAME": "c"}, "c"),
        (["--service-name", "d"], {"OTEL_SERVICE_NAME": "b", "BAI_DAEMON_SERVICE_NAME": "c"}, "d"),
        (["--service-name", "d"], {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a"}, "d"),
    ],
)
def test_the_name_of_the_service(collector, monkeypatch, arguments, variables, name):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    make_backend(collector.url, *arguments).send([metric()])
    assert collector.resources()[0]["service.name"] == name


def test_resource_attributes_come_from_their_variable(collector, monkeypatch):
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES",
        " host.name=h , service.instance.id=i,a%3Db=c%2Cd%20%C3%B6+%25,e=f=g,empty=,",
    )
    make_backend(collector.url).send([metric(), metric(spool=SPOOL[::-1])])
    for resource in collector.resources():
        assert resource == {
            "service.name": "benchmark",
            "service.instance.id": "i",
            "host.name": "h",
            "a=b": "c,d ö+%",
            "e": "f=g",
            "empty": "",
        }


@pytest.mark.parametrize(
    "text, mistake",
    [
        ("a=b,c", "is not NAME=VALUE,NAME=VALUE with percent-encoded values"),
        ("a=b,=c", "is not NAME=VALUE,NAME=VALUE with percent-encoded values"),
        ("a=b,c=100%", "is not NAME=VALUE,NAME=VALUE with percent-encoded values"),
        ("a=b,c=%ff", "is not UTF-8"),
        ("a=b,c=\udcff", "is not UTF-8"),
    ],
)
def test_resource_attributes_with_a_mistake_are_ignored_as_a_whole(
    collector, monkeypatch, caplog, text, mistake
):
    # https://opentelemetry.io/docs/specs/otel/resource/sdk/
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", text)
    make_backend(collector.url).send([metric()])
    assert "a" not in collector.resources()[0]
    assert caplog.messages == [f"OTEL_RESOURCE_ATTRIBUTES={text!r} is ignored: it {mistake}"]


# The variables of an exporter


BAI = "BAI_DAEMON_URL"
METRICS = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
ALL = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    "arguments, variables, url",
    [
        ([], {}, "http://localhost:4318/v1/metrics"),
        (["--url", "http://a:1/"], {}, "http://a:1/v1/metrics"),
        (["--url", "http://a:1/b"], {}, "http://a:1/b/v1/metrics"),
        (["--url", "http://a:1/b/v1/metrics"], {}, "http://a:1/b/v1/metrics"),
        ([], {ALL: "http://c/"}, "http://c/v1/metrics"),
        ([], {ALL: "https://c/d"}, "https://c/d/v1/metrics"),
        ([], {METRICS: "http://e/f/", ALL: "http://c"}, "http://e/f/"),
        ([], {METRICS: "http://e", ALL: "http://c"}, "http://e"),
        ([], {METRICS: "", ALL: "http://c"}, "http://c/v1/metrics"),
        ([], {METRICS: "http://e/v1/metrics"}, "http://e/v1/metrics"),
        ([], {METRICS: "http://e/v1/metrics/"}, "http://e/v1/metrics/"),
        ([], {BAI: "http://g", METRICS: "http://e", ALL: "http://c"}, "http://g/v1/metrics"),
        (["--url", "http://a"], {BAI: "http://g", METRICS: "http://e"}, "http://a/v1/metrics"),
    ],
)
def test_the_url_that_metrics_are_posted_to(monkeypatch, arguments, variables, url):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert parse(*arguments)["url"] == url


def test_an_endpoint_for_metrics_is_used_as_it_is(collector, monkeypatch):
    monkeypatch.setenv(METRICS, collector.url + "/opentelemetry/api/v1/push")
    otlp.Backend(**parse()).send([metric()])
    assert collector.paths == ["/opentelemetry/api/v1/push"]


@pytest.mark.parametrize("variable", [BAI, METRICS, ALL])
@pytest.mark.parametrize(
    "value, message",
    [
        ("c:4317", "'c:4317' starts with neither http:// nor https://"),
        (
            "http://me:secret@c",
            "leave out the user and the password: --help shows their options",
        ),
        (
            "http://c/?token=secret",
            "leave out what follows the ? or #: a path is appended to the URL",
        ),
    ],
)
def test_a_bad_endpoint_is_an_error_that_names_its_variable(monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(click.UsageError) as caught:
        parse()
    assert caught.value.format_message() == f"Invalid value for {variable}: {message}"


def test_a_bad_url_is_an_error_that_names_the_option(monkeypatch):
    monkeypatch.setenv(ALL, "http://c")
    with pytest.raises(click.UsageError) as caught:
        parse("--url", "a")
    assert "'--url'" in caught.value.format_message()


@pytest.mark.parametrize(
    "name, setting",
    [
        ("--ca-file", "CERTIFICATE"),
        ("--client-cert", "CLIENT_CERTIFICATE"),
        ("--client-key", "CLIENT_KEY"),
    ],
)
def test_certificates_come_from_the_variables(monkeypatch, tmp_path, name, setting):
    key = name[2:].replace("-", "_")
    variables = [
        f"OTEL_EXPORTER_OTLP_{setting}",
        f"OTEL_EXPORTER_OTLP_METRICS_{setting}",
        f"BAI_DAEMON_{key.upper()}",
    ]
    for variable in variables:  # each counts more than those before it
        path = tmp_path / variable
        path.touch()
        monkeypatch.setenv(variable, str(path))
        assert parse()[key] == str(path)
    (tmp_path / "option").touch()
    assert parse(name, str(tmp_path / "option"))[key] == str(tmp_path / "option")


def test_a_certificate_that_is_not_there_is_an_error_that_shows_its_path(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere")
    with pytest.raises(click.UsageError) as caught:
        parse()
    assert "'/nowhere' does not exist" in caught.value.format_message()


def test_the_options_of_other_backends_do_not_have_the_variables_of_an_exporter():
    from benchmarkai.daemon.backends import influxdb

    assert "OTEL" not in str([option.envvar for option in influxdb.Backend.options])


HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
METRICS_HEADERS = "OTEL_EXPORTER_OTLP_METRICS_HEADERS"


@pytest.mark.parametrize(
    "arguments, variables, headers",
    [
        ([], {HEADERS: "a=b"}, {"a": "b"}),
        ([], {HEADERS: " a = b%20c%2Cd , x-y=z=="}, {"a": "b c,d", "x-y": "z=="}),
        ([], {HEADERS: "a=b", METRICS_HEADERS: "c=d"}, {"a": None, "c": "d"}),
        ([], {HEADERS: "a=b", METRICS_HEADERS: ""}, {"a": "b"}),
        (["--header", "A=c"], {HEADERS: "a=b,d=e"}, {"a": "c", "d": "e"}),
        (["--user", "me"], {HEADERS: "authorization=b"}, {"authorization": "Basic bWU6"}),
        ([], {HEADERS: "user-agent=b"}, {"user-agent": "b"}),
        ([], {HEADERS: "content-type=b"}, {"content-type": "application/x-protobuf"}),
    ],
)
def test_headers_come_from_the_variables(collector, monkeypatch, arguments, variables, headers):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    make_backend(collector.url, *arguments).send([metric()])
    sent = collector.headers[0]
    assert {name: sent.get_all(name) for name in headers} == {
        name: value and [value] for name, value in headers.items()
    }


@pytest.mark.parametrize("variable", [HEADERS, METRICS_HEADERS])
@pytest.mark.parametrize(
    "value, message",
    [
        (
            "qwertz",
            " is not NAME=VALUE,NAME=VALUE with percent-encoded values, such as api-key=a%20b",
        ),
        (
            "a=qwertz%",
            " is not NAME=VALUE,NAME=VALUE with percent-encoded values, such as api-key=a%20b",
        ),
        ("a=qwertz%ff", " is not UTF-8, such as api-key=a%20b"),
        ("a b=qwertz", ": 'a b' is not the name of a header"),
        ("a=qwertz%0A", ": the value of 'a' is not printable ASCII"),
    ],
)
def test_bad_headers_are_an_error_that_does_not_show_them(monkeypatch, variable, value, message):
    result = run_daemon("otlp", "--", "true", env={variable: value})
    assert result.code == 2
    assert result.err == f"bai-daemon: {variable}{message}\n"


def test_the_value_of_a_header_is_a_secret(collector, monkeypatch):
    monkeypatch.setenv(HEADERS, "api-key=yxcv%20bnm")
    make_backend(collector.url)
    assert redact("no such key: yxcv bnm") == "no such key: ***"


@pytest.mark.parametrize("variable, path", [(METRICS, "/push"), (ALL, "/base")])
def test_the_log_says_where_the_metrics_go_and_how_to_send_what_is_left(
    start_server, tmp_path, variable, path
):
    collector = start_server(Collector, lambda number: (401, {}, b""))
    env = {variable: collector.url + path, HEADERS: "api-key=qwertz"}
    arguments = ["--spool", str(tmp_path / "spool"), "--shutdown-timeout", "0"]
    result = run_daemon("otlp", *arguments, "--", BAI_EMIT, "a=1", env=env)
    url = env[variable] + ("" if variable == METRICS else "/v1/metrics")
    assert f"delivering to otlp {url}\n" in result.err
    assert "qwertz" not in result.err
    (line,) = re.findall("send with: (.*)", result.err)
    collector.respond = lambda number: (200, {}, b"")
    assert run(["sh", "-c", line], env={**env, "PATH": PATH}).code == 0
    assert set(collector.paths) == {"/push" if variable == METRICS else "/base/v1/metrics"}
    assert {headers["api-key"] for headers in collector.headers} == {"qwertz"}


# What the responses mean


@pytest.mark.parametrize(
    "rejected, count, message, reason",
    [
        (1, 1, "too old", "too old"),
        (2, 2, "too\nold", "too old"),
        (3, 3, "", "rejected by the collector"),
        (4, 3, "too old", "too old"),
    ],
)
def test_a_partial_success_says_how_many_are_rejected(
    start_server, rejected, count, message, reason
):
    collector = start_server(Collector, lambda number: partial_success(rejected, message))
    answer = make_backend(collector.url).send([metric(number=number) for number in range(3)])
    assert answer == ((), (), count, reason, None)


def test_what_is_rejected_in_part_is_set_aside_and_not_sent_again(start_server, start_daemon):
    # https://opentelemetry.io/docs/specs/otlp/#partial-success-1
    collector = start_server(Collector, lambda number: partial_success(1, "too old"))
    daemon = start_daemon("otlp", "--url", collector.url)
    daemon.emit("a=1", "b=2", "c=3")
    assert daemon.stop().code == 0
    assert len(collector.requests) == 1
    assert "delivered 2, rejected 1, waiting 0" in daemon.logged()
    (entry,) = daemon.rejected_entries()
    assert [kept["name"] for kept in entry["metrics"]] == ["a", "b", "c"]
    assert entry["reason"] == "1 of these 3: too old"


@pytest.mark.parametrize("rejected", [0, -1])
def test_a_warning_of_the_collector_is_logged_once(start_server, caplog, rejected):
    messages = iter(["slow\n down", "slow down", "", "slow down", "stop", "slow down"])
    collector = start_server(Collector, lambda number: partial_success(rejected, next(messages)))
    backend = make_backend(collector.url)
    for _ in range(6):
        assert backend.send([metric()]) is None
    said = "the collector accepts the metrics, but warns: "
    assert caplog.messages == [said + "slow down", said + "stop", said + "slow down"]


@pytest.mark.parametrize(
    "status, headers, body",
    [
        (200, PROTOBUF, b""),
        (200, {"Content-Type": "Application/X-Protobuf; charset=x"}, partial_success(0)[2]),
        (200, {}, partial_success(0)[2]),
        # Prometheus 3, which says nothing at all.
        (200, {}, b""),
        (200, {"Content-Type": "text/plain"}, b""),
        (202, {}, b""),
    ],
)
def test_a_response_of_a_collector_is_a_delivery(start_server, status, headers, body):
    collector = start_server(Collector, lambda number: (status, headers, body))
    assert make_backend(collector.url).send([metric()]) is None


@pytest.mark.parametrize(
    "status, headers, body, shown",
    [
        (200, {}, LOGIN, "HTTP 200"),
        (200, {"Content-Type": "text/html; charset=utf-8"}, LOGIN, "HTTP 200 text/html"),
        (202, {"Content-Type": "application/json"}, b"{}", "HTTP 202 application/json"),
        # To a parser of protobuf, this is an unknown field.
        (200, {"Content-Type": "text/plain"}, b"\r\n OK", "HTTP 200 text/plain"),
        (200, PROTOBUF, b"{}", "HTTP 200 application/x-protobuf"),
    ],
)
def test_what_no_collector_responds_is_not_a_delivery(start_server, status, headers, body, shown):
    collector = start_server(Collector, lambda number: (status, headers, body))
    with pytest.raises(Unavailable) as caught:
        make_backend(collector.url).send([metric()])
    assert str(caught.value) == f"unexpected response, {shown}; is this an OTLP collector?"


def status_message(text):
    """Return a google.rpc.Status: https://github.com/googleapis/googleapis, google/rpc/status.proto

    int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3;
    """
    data = text.encode()
    return b"\x08\x03\x12" + bytes([len(data)]) + data + b"\x1a\x02\x0a\x00"


@pytest.mark.parametrize(
    "headers, body, reason",
    [
        (PROTOBUF, status_message("größe is bad"), "größe is bad"),
        # Mimir: https://github.com/grafana/mimir/issues/10847
        ({"Content-Type": "application/octet-stream"}, status_message("bad"), "bad"),
        (PROTOBUF, b"no Status", "no Status"),
        (PROTOBUF, b"", ""),
        # Prometheus
        ({"Content-Type": "text/plain; charset=utf-8"}, b"out of bounds\n", "out of bounds"),
    ],
)
def test_a_bad_request_is_rejected_with_its_reason(start_server, headers, body, reason):
    collector = start_server(Collector, lambda number: (400, headers, body))
    with pytest.raises(Rejected) as caught:
        make_backend(collector.url).send([metric()])
    assert str(caught.value) == f"HTTP 400: {collector.url}/v1/metrics: {reason}".rstrip()


def test_the_good_points_of_a_request_that_prometheus_rejects_arrive_once(
    start_server, start_daemon
):
    def respond(number):
        if "bad" not in [metric.name for metric in collector.metrics()]:
            return (200, {}, b"")
        # It then stores nothing of the request: storage/remote/write_otlp_handler.go
        collector.requests.pop()
        return (400, {"Content-Type": "text/plain; charset=utf-8"}, b"out of bounds\n")

    collector = start_server(Collector, respond)
    daemon = start_daemon("otlp", "--url", collector.url)
    daemon.emit("a=1", "bad=2", "c=3")
    assert daemon.stop().code == 0
    assert sorted(metric.name for metric in collector.metrics()) == ["a", "c"]
    (entry,) = daemon.rejected_entries()
    assert (entry["name"], entry["reason"][-14:]) == ("bad", " out of bounds")


@pytest.mark.parametrize("status", [300, 401, 403, 404, 429, 500, 502, 503, 504])
def test_any_other_error_is_worth_a_retry_by_the_daemon(start_server, status):
    headers = {**PROTOBUF, "Retry-After": "7"}
    collector = start_server(Collector, lambda number: (status, headers, status_message("busy")))
    with pytest.raises(Unavailable) as caught:
        make_backend(collector.url).send([metric()])
    assert str(caught.value) == f"HTTP {status}: {collector.url}/v1/metrics: busy"
    assert caught.value.retry_after == 7
    assert len(collector.requests) == 1


def test_a_redirection_is_neither_followed_nor_a_delivery(start_server):
    responses = {1: (302, {"Location": "/login"}, b"")}
    collector = start_server(Collector, lambda number: responses.get(number, (200, {}, b"")))
    with pytest.raises(Unavailable) as caught:
        make_backend(collector.url).send([metric()])
    assert str(caught.value).startswith("HTTP 302:")
    assert len(collector.requests) == 1


def test_a_collector_that_is_down_is_worth_a_retry():
    with pytest.raises(Unavailable, match="refused"):
        make_backend(f"http://127.0.0.1:{free_port()}").send([metric()])


@pytest.mark.parametrize("fault", ["drop", "half"])
def test_a_response_that_is_lost_is_worth_a_retry(start_server, fault):
    server = start_server(Proxy, None, lambda number: (200, {}, b""))
    proxy = start_server(Proxy, server, lambda number: fault if number == 2 else None)
    backend = make_backend(proxy.url)
    assert backend.send([metric("a")]) is None
    with pytest.raises(Unavailable):
        backend.send([metric("b")])
