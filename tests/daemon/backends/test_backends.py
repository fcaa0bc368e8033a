"""bai-emit, the pipe, bai-daemon, a server: what arrives, read back with the server's own query."""

import base64
import datetime
import json
import re
import shlex
import sys
import time

import pytest

from benchmarkai.daemon.spool import Spool
from tests.daemon.backends.servers import (
    InfluxDB,
    Noida,
    Osmem,
    Oteltap,
    Prometheus,
    Proxy,
    Pushgateway,
    VictoriaMetrics,
    request,
)
from tests.daemon.harness import PATH, run_daemon
from tests.helpers import read_text, run, wait_until

LABELS = {"run": "42", "host": "a b/c=d,e"}
VALUES = {
    "alexnet.latency": 0.42,
    "batch size": 16,
    "größe": -1.5,
    "a/b=c,d": 1e-9,
    "sum": 0.1 + 0.2,
    "small": 5e-05,
    "large": 123456789012345678,
    "zero": 0,
    "half": 2.5e10,
    "<&>": 3,
}
SERIES = [1, 0.5, 2, 0.25, 1e6 + 0.1]

# The arguments of bai-daemon for each kind of server, before its URL.
ARGUMENTS = {
    InfluxDB: ["influxdb", "--database", "benchmarks", "--url"],
    VictoriaMetrics: ["influxdb", "--database", "benchmarks", "--url"],
    Noida: ["elasticsearch", "--url"],
    Osmem: ["opensearch", "--url"],
    Oteltap: ["otlp", "--url"],
    Pushgateway: ["prometheus", "--gateway"],
}
LABELS_TYPE = {Noida: "flattened", Osmem: "flat_object"}
LABELLED = 'labelled{run="43",model="alexnet"}'
LABELS_OF_LABELLED = {**LABELS, "run": "43", "model": "alexnet"}
COUNT = len(SERIES) + len(VALUES) + 1
LABEL_OPTIONS = [f"--label={name}={value}" for name, value in LABELS.items()]


def publish(daemon):
    """Publish the series, the values and LABELLED, and stop the daemon once all is delivered."""
    for number in SERIES:
        daemon.emit(f"series={number!r}")
    daemon.emit(stdin=json.dumps({**VALUES, LABELLED: 7}).encode())
    assert daemon.stop().code == 0, daemon.logged()


def check_points(points, before, resolution=1, exact=lambda value: value):
    """Check the (name, labels, value, time) of the points against what publish() has published.

    resolution: of the times, in nanoseconds.
    exact: what the server may return for a value.
    """
    found = {}
    for name, labels, value, moment in sorted(points, key=lambda point: point[3]):
        assert labels == (LABELS_OF_LABELLED if name == "labelled" else LABELS)
        assert before - resolution <= moment <= time.time_ns()
        found.setdefault(name, []).append(float(value))
    assert found.pop("labelled") == [7]
    assert found.pop("series") == exact([float(value) for value in SERIES])
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(VALUES, 1)
    for name, value in VALUES.items():
        assert found[name][0] == exact(float(value))


def fifteen_digits(value):
    return pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(
    "kind, precision",
    [(InfluxDB, {}), (VictoriaMetrics, {"resolution": 10**6, "exact": fifteen_digits})],
)
def test_metrics_arrive_in_influxdb_and_victoria_metrics(
    start_server, start_daemon, kind, precision
):
    server = start_server(kind)
    before = time.time_ns()
    publish(start_daemon(*ARGUMENTS[kind], server.url, *LABEL_OPTIONS))
    wait_until(lambda: len(server.points()) >= COUNT)
    check_points(server.points(), before, **precision)


def test_with_a_time_step_no_two_values_of_a_burst_share_a_millisecond(start_server, start_daemon):
    server = start_server(VictoriaMetrics)
    arguments = [*ARGUMENTS[VictoriaMetrics], server.url, "--time-step", "1ms"]
    daemon = start_daemon(*arguments, "--label", "run=42")
    lines = [json.dumps({"latency": n, 'latency{a="b"}': n}) for n in range(500)]
    daemon.emit(stdin="\n".join(lines).encode())
    assert daemon.stop().code == 0, daemon.logged()
    wait_until(lambda: len(server.points()) == 1000)
    found = {None: {}, "b": {}}
    for name, labels, value, moment in server.points():
        assert name == "latency"
        found[labels.get("a")][moment] = value
    for values in found.values():
        assert [values[moment] for moment in sorted(values)] == list(range(500))


@pytest.mark.parametrize("kind", [Noida, Osmem])
def test_metrics_arrive_in_elasticsearch_and_opensearch(start_server, start_daemon, kind):
    server = start_server(kind)
    index = server.url + "/benchmark-metrics"
    before = time.time_ns()
    publish(start_daemon(*ARGUMENTS[kind], server.url, *LABEL_OPTIONS))
    request(index + "/_refresh", b"")
    response = json.loads(request(index + "/_search?size=100"))
    points = []
    for hit in response["hits"]["hits"]:
        document = hit["_source"]
        seconds, digits = document["@timestamp"][:-1].split(".")
        moment = datetime.datetime.fromisoformat(seconds + "+00:00")
        nanoseconds = int(moment.timestamp()) * 10**9 + int(digits)
        points.append((document["name"], document["labels"], document["value"], nanoseconds))
    check_points(points, before)
    (found,) = json.loads(request(index + "/_mapping")).values()
    properties = found["mappings"]["properties"]
    assert properties["value"]["type"] == "double"
    assert properties["@timestamp"]["type"] == "date_nanos"
    assert properties["labels"]["type"] == LABELS_TYPE[kind]
    # An index that exists is used.
    daemon = start_daemon(*ARGUMENTS[kind], server.url, *LABEL_OPTIONS)
    daemon.emit("again=1")
    assert daemon.stop().code == 0
    request(index + "/_refresh", b"")
    assert json.loads(request(index + "/_count"))["count"] == len(points) + 1


@pytest.mark.parametrize("kind", [Noida, Osmem])
def test_a_document_that_is_sent_twice_is_indexed_once(start_server, start_daemon, kind):
    server = start_server(kind)
    index = server.url + "/benchmark-metrics"
    request(index, b"{}", method="PUT", **{"Content-Type": "application/json"})
    # Before each attempt, the daemon looks for the index. The server accepts the documents, and
    # its response is lost.
    proxy = start_server(Proxy, server, lambda number: "half" if number in (2, 4) else None)
    daemon = start_daemon(*ARGUMENTS[kind], proxy.url)
    daemon.emit("a=1", "b=2")
    assert daemon.stop().code == 0, daemon.logged()
    assert [b"create" in body for body in proxy.bodies] == [False, True] * 3
    request(index + "/_refresh", b"")
    assert json.loads(request(index + "/_count"))["count"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [InfluxDB, Noida, Osmem, Oteltap, Pushgateway])
def test_an_unexpected_response_is_not_a_delivery(start_server, start_daemon, kind):
    login = (200, {"Content-Type": "text/html"})
    faults = [(302, {"Location": "/login"}), (500, {}), "cut", "drop", login]
    server = start_server(kind)
    proxy = start_server(Proxy, server, dict(enumerate(faults, 1)).get)
    daemon = start_daemon(*ARGUMENTS[kind], proxy.url)
    daemon.emit("a=1")
    # While it ends, the daemon does not wait as long between attempts.
    assert daemon.stop().code == 0, daemon.logged()
    assert proxy.faults == len(faults)
    assert "received 1, delivered 1, rejected 0, waiting 0" in daemon.logged()
    assert "delivering again" in daemon.logged()


def test_metrics_that_do_not_fit_the_mapping_of_an_index_are_rejected(start_server, start_daemon):
    server = start_server(Osmem)
    mapping = {"mappings": {"properties": {"name": {"type": "long"}}}}
    request(
        server.url + "/benchmark-metrics",
        json.dumps(mapping).encode(),
        method="PUT",
        **{"Content-Type": "application/json"},
    )
    daemon = start_daemon(*ARGUMENTS[Osmem], server.url, *LABEL_OPTIONS)
    daemon.emit("a=1", "42=0", "b=2")
    assert daemon.stop().code == 0
    assert "rejected 2 metrics, the first is 'a': HTTP 400" in daemon.logged()
    assert [entry["name"] for entry in daemon.rejected_entries()] == ["a", "b"]


@pytest.mark.slow
def test_metrics_arrive_in_prometheus(start_server, start_daemon):
    gateway = start_server(Pushgateway)
    prometheus = start_server(Prometheus, gateway)
    arguments = [*ARGUMENTS[Pushgateway], gateway.url, "--job", "alexnet"]
    publish(start_daemon(*arguments, *LABEL_OPTIONS))
    assert "# HELP alexnet_latency alexnet.latency\n" in request(gateway.url + "/metrics")
    wait_until(lambda: prometheus.query('gr__e{job="alexnet"}'))
    expected = {re.sub("[^a-zA-Z0-9_:]", "_", name): value for name, value in VALUES.items()}
    expected["series"] = SERIES[-1]
    for name, value in expected.items():
        (result,) = prometheus.query(f'{{__name__="{name}", job="alexnet"}}')
        assert float(result["value"][1]) == float(value)
        labels = result["metric"]
        assert (labels["run"], labels["host"]) == (LABELS["run"], LABELS["host"])
    (result,) = prometheus.query('labelled{job="alexnet", run="43", model="alexnet"}')
    assert result["value"][1] == "7"


def test_two_names_that_are_the_same_to_prometheus_are_not_mixed(start_server, start_daemon):
    gateway = start_server(Pushgateway)
    daemon = start_daemon(*ARGUMENTS[Pushgateway], gateway.url)
    daemon.emit("a.b=1", "a/b=2", "c=3")
    assert daemon.stop().code == 0
    message = "rejected 1 metric: 'a/b': it would become a_b, like 'a.b' before it"
    assert message in daemon.logged()
    text = request(gateway.url + "/metrics")
    assert 'a_b{instance="",job="benchmark"} 1\n' in text
    assert 'c{instance="",job="benchmark"} 3\n' in text


def test_each_set_of_labels_is_a_group_of_its_own(start_server, start_daemon):
    gateway = start_server(Pushgateway)
    # The third push is lost; what came before it is not sent again.
    proxy = start_server(Proxy, gateway, lambda number: "drop" if number == 3 else None)
    daemon = start_daemon(*ARGUMENTS[Pushgateway], proxy.url)
    metrics = {f'step{{number="{n}"}}': n for n in range(4)}
    daemon.emit(stdin=json.dumps({**metrics, "other": 7}).encode())
    assert daemon.stop().code == 0
    text = request(gateway.url + "/metrics")
    for number in range(4):
        assert f'step{{instance="",job="benchmark",number="{number}"}} {number}\n' in text
    assert 'other{instance="",job="benchmark"} 7\n' in text
    assert len(proxy.bodies) == 6


def test_a_name_of_the_pushgateway_itself_is_rejected_alone(start_server, start_daemon):
    gateway = start_server(Pushgateway)
    daemon = start_daemon(*ARGUMENTS[Pushgateway], gateway.url)
    daemon.emit("push.time/seconds=1", "push_failure_time_seconds=2", "c=3")
    assert daemon.stop().code == 0
    assert "delivered 1, rejected 2, waiting 0" in daemon.logged()
    assert 'c{instance="",job="benchmark"} 3\n' in request(gateway.url + "/metrics")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["cloudwatch", "--label", "größe=1"],
            "the labels cannot be sent: the label 'größe' is not plain ASCII",
        ),
        (
            ["cloudwatch", *(f"--label=n{n}=1" for n in range(31))],
            "the labels cannot be sent: there are more than 30 labels",
        ),
        (
            ["prometheus", "--label", "a-b=1"],
            "the labels cannot be sent: Prometheus does not allow the label 'a-b'",
        ),
        (
            ["influxdb", "--database", "x", "--label", "a=b\\"],
            "the labels cannot be sent: 'b\\\\' has a tab, a line break or a backslash at its end, "
            "which the line protocol cannot express",
        ),
        (["influxdb"], "Missing option '--database'"),
        (
            ["influxdb", "--database", "x", "--url", "localhost"],
            "'localhost' starts with neither http:// nor https://",
        ),
        (
            ["influxdb", "--database=x", "--url=http://me:secret@localhost"],
            "leave out the user and the password: --help shows their options",
        ),
        (["influxdb", "--database=x", "--password-file", "/none"], "No such file"),
    ],
)
def test_a_bad_option_of_a_backend_is_a_usage_error(arguments, message):
    result = run_daemon(*arguments, "--", "true")
    assert (result.code, result.out) == (2, "")
    assert message in " ".join(result.err.split())
    assert "secret" not in result.err


@pytest.mark.parametrize(
    "kind, labels, reason",
    [
        (Pushgateway, {"a-b": "1"}, "Prometheus does not allow the label 'a-b'"),
        (InfluxDB, {"time": "1"}, "InfluxDB does not allow a tag named time"),
    ],
)
def test_waiting_metrics_with_labels_that_the_server_cannot_hold_are_rejected(
    start_server, start_daemon, tmp_path, kind, labels, reason
):
    with Spool(str(tmp_path / "pipe.spool"), 1 << 30) as spool:
        spool.begin(labels, "a server")
        spool.add([("a", 1), ("b", 2)])
    server = start_server(kind)
    daemon = start_daemon(*ARGUMENTS[kind], server.url, "--label", "run=42")
    daemon.emit("c=3")
    assert daemon.stop().code == 0
    assert "received 1, delivered 1, rejected 2, waiting 0" in daemon.logged()
    entries = daemon.rejected_entries()
    assert [(entry["name"], entry["labels"]) for entry in entries] == [("a", labels), ("b", labels)]
    assert all(entry["reason"].startswith(reason) for entry in entries)


def test_metrics_arrive_in_an_otlp_collector(start_server, start_daemon, monkeypatch):
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

    # Other than a collector, the stand-in cannot decompress.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    server = start_server(Oteltap)
    proxy = start_server(Proxy, server)
    publish(start_daemon(*ARGUMENTS[Oteltap], proxy.url, *LABEL_OPTIONS))
    found = {}

    def all_have_arrived():
        found.clear()
        lines = server.logged().splitlines(keepends=True)
        for line in lines:
            if line.startswith("{") and line.endswith("\n"):
                metric = json.loads(line)
                points = metric["gauge"]["dataPoints"]
                values = [float(point.get("asInt", point.get("asDouble"))) for point in points]
                found.setdefault(metric["name"], []).extend(values)
        return sum(map(len, found.values())) >= COUNT

    wait_until(all_have_arrived)
    assert found.pop("labelled") == [7]
    assert found.pop("series") == [float(value) for value in SERIES]
    assert found == {name: [float(value)] for name, value in VALUES.items()}
    assert proxy.bodies
    for body in proxy.bodies:
        sent = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
        for metric in sent.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.gauge.data_points:
                labels = LABELS_OF_LABELLED if metric.name == "labelled" else LABELS
                assert {a.key: a.value.string_value for a in point.attributes} == labels


def test_the_readme_delivers_to_victoriametrics(start_server, tmp_path):
    readme = read_text("README.md")
    (command,) = re.findall(r"^bai-daemon influxdb .*$", readme, re.M)
    (benchmark,) = re.findall(r"^# bench.py\n.*?(?=^```$)", readme, re.M | re.S)
    (tmp_path / "bench.py").write_text(benchmark)
    (shown,) = re.findall(r"VictoriaMetrics has\s`(.*?)_value`", readme)
    server = start_server(VictoriaMetrics)
    command = command.replace("http://localhost:8428", server.url)
    command = command.replace("python", shlex.quote(sys.executable))
    result = run(["sh", "-c", command], cwd=str(tmp_path), env={"PATH": PATH})
    assert result.code == 0, result.err
    wait_until(server.points)
    ((name, labels, value, _),) = server.points()
    assert (name, labels, value) == (shown, {"run": "42"}, 0.42)


def test_the_docs_deliver_to_a_pushgateway(start_server):
    page = read_text("docs", "daemon.md")
    (command,) = re.findall(r"^bai-daemon prometheus .*$", page, re.M)
    shown = re.search(r"now has `(.*?)`", page).group(1)
    gateway = start_server(Pushgateway)
    command = command.replace("http://localhost:9091", gateway.url)
    result = run(["sh", "-c", command], env={"PATH": PATH})
    assert result.code == 0, result.err
    assert shown + "\n" in request(gateway.url + "/metrics")
    # The group goes as the page says.
    (path,) = re.findall(r"^ *curl -X DELETE http://localhost:9091(\S+)$", page, re.M)
    request(gateway.url + path, method="DELETE")
    assert "alexnet_latency" not in request(gateway.url + "/metrics")


def test_secrets_reach_the_server_and_nothing_else(start_server, start_daemon, tmp_path):
    (tmp_path / "password").write_text("qwertz\n")
    server = start_server(InfluxDB)
    proxy = start_server(Proxy, server, lambda number: (401, {}) if number == 1 else None)
    daemon = start_daemon(
        *ARGUMENTS[InfluxDB],
        proxy.url,
        *("--user", "me", "--password-file", str(tmp_path / "password")),
        *("--log-level", "debug"),
    )
    daemon.emit("a=1")
    wait_until(lambda: server.points())
    assert daemon.stop().code == 0
    secret = base64.b64encode(b"me:qwertz").decode()
    assert proxy.authorizations == ["Basic " + secret] * 2
    assert "cannot deliver: HTTP 401" in daemon.logged()
    assert "qwertz" not in daemon.logged()
    assert secret not in daemon.logged()
