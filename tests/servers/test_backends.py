"""bai-emit -> pipe -> bai-daemon -> server, read back by the server's own query."""

import base64
import datetime
import json
import re
import time

import pytest
from conftest import ROOT, run, wait_until
from servers import (  # noqa: F401
    BAI_DAEMON,
    InfluxDB,
    Moto,
    Noida,
    Osmem,
    Oteltap,
    Prometheus,
    Proxy,
    Pushgateway,
    VictoriaMetrics,
    daemons,
    request,
    servers,
)

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


def publish(daemon):
    for number in SERIES:
        daemon.emit("series=%r" % number)
    daemon.emit(stdin=json.dumps(VALUES).encode())
    assert daemon.stop() == 0, daemon.logged()


def with_labels(url, *words):
    labels = [word for item in LABELS.items() for word in ("--label", "%s=%s" % item)]
    return list(words) + ["--url", url] + labels


def check_points(points, before, resolution=1, exact=lambda value: value):
    """Check points (name, labels, value, time) against all that was published."""
    assert all(labels == LABELS for _, labels, _, _ in points)
    found = {}
    for name, _, value, when in sorted(points, key=lambda point: point[3]):
        assert before - resolution <= when <= time.time_ns()
        found.setdefault(name, []).append(float(value))
    assert found.pop("series") == exact([float(value) for value in SERIES])
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(VALUES, 1)
    for name, value in VALUES.items():
        assert found[name][0] == exact(float(value))


def fifteen_digits(value):
    return pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(
    "kind, how", [(InfluxDB, {}), (VictoriaMetrics, {"resolution": 10**6, "exact": fifteen_digits})]
)
def test_influxdb(servers, daemons, kind, how):  # noqa: F811
    server = servers(kind)
    before = time.time_ns()
    publish(daemons(*with_labels(server.url, "influxdb", "--database", "benchmarks")))
    wait_until(lambda: len(server.points()) >= len(SERIES) + len(VALUES))
    check_points(server.points(), before, **how)


@pytest.mark.parametrize("kind, name", [(Noida, "elasticsearch"), (Osmem, "opensearch")])
def test_elasticsearch_and_opensearch(servers, daemons, kind, name):  # noqa: F811
    server = servers(kind)
    before = time.time_ns()
    publish(daemons(*with_labels(server.url, name)))
    request(server.url + "/job-metrics/_refresh", b"")
    answer = json.loads(request(server.url + "/job-metrics/_search?size=100"))
    points = []
    for hit in answer["hits"]["hits"]:
        document = hit["_source"]
        seconds, digits = document["@timestamp"][:-1].split(".")
        moment = datetime.datetime.fromisoformat(seconds + "+00:00")
        when = int(moment.timestamp()) * 10**9 + int(digits)
        points.append((document["name"], document["labels"], document["value"], when))
    check_points(points, before)
    mapping = json.loads(request(server.url + "/job-metrics/_mapping"))["job-metrics"]["mappings"]
    assert mapping["properties"]["value"]["type"] == "double"
    assert mapping["properties"]["@timestamp"]["type"] == "date_nanos"
    # An index that is there already is used.
    daemon = daemons(*with_labels(server.url, name))
    daemon.emit("again=1")
    assert daemon.stop() == 0
    request(server.url + "/job-metrics/_refresh", b"")
    assert json.loads(request(server.url + "/job-metrics/_count"))["count"] == len(points) + 1


@pytest.mark.parametrize("kind, name", [(Noida, "elasticsearch"), (Osmem, "opensearch")])
def test_what_is_sent_twice_is_there_once(servers, daemons, kind, name):  # noqa: F811
    server = servers(kind)
    # The server has it, and its answer gets lost.
    proxy = servers(Proxy, server, lambda number: "half" if number in (2, 3) else None)
    daemon = daemons(*with_labels(proxy.url, name))
    daemon.emit("a=1", "b=2")
    assert daemon.stop() == 0, daemon.logged()
    assert proxy.harmed == 2
    request(server.url + "/job-metrics/_refresh", b"")
    assert json.loads(request(server.url + "/job-metrics/_count"))["count"] == 2


WORDS = {
    InfluxDB: ["influxdb", "--database", "benchmarks", "--url"],
    Noida: ["elasticsearch", "--url"],
    Osmem: ["opensearch", "--url"],
    Oteltap: ["otlp", "--url"],
    Pushgateway: ["prometheus", "--gateway"],
}


@pytest.mark.parametrize("kind", WORDS)
def test_what_is_no_answer_of_the_server_is_not_taken_for_one(servers, daemons, kind):  # noqa: F811
    faults = [(302, {"Location": "/login"}), (500, {}), "cut", "drop"]
    if kind is not Pushgateway:  # it says nothing but 200
        faults.append((200, {"Content-Type": "text/html"}))
    server = servers(kind)
    proxy = servers(Proxy, server, dict(enumerate(faults, 1)).get)
    daemon = daemons(*WORDS[kind], proxy.url)
    daemon.emit("a=1")
    wait_until(lambda: len(proxy.bodies) > len(faults))
    assert daemon.stop() == 0, daemon.logged()
    assert proxy.harmed == len(faults)
    assert "delivered 1, refused 0, waiting 0" in daemon.logged()
    assert "delivering again" in daemon.logged()


def test_influxdb_does_not_mix_names_with_backslashes(servers, daemons):  # noqa: F811
    server = servers(InfluxDB)
    daemon = daemons("influxdb", "--url", server.url, "--database", "benchmarks")
    names = ["a\\,b", "a,b", "a\\b", "a b", "a\\ b", "c\\", "#d"]
    daemon.emit(stdin=json.dumps({name: n for n, name in enumerate(names)}).encode())
    assert daemon.stop() == 0
    assert sorted(point[0] for point in server.points()) == sorted(["a,b", "a\\b", "a b"])
    assert "delivered 3, refused 4" in daemon.logged()


def test_opensearch_puts_aside_what_the_index_cannot_hold(servers, daemons):  # noqa: F811
    server = servers(Osmem)
    mapping = {"mappings": {"properties": {"labels": {"type": "long"}}}}
    import urllib.request

    put = urllib.request.Request(
        server.url + "/job-metrics",
        json.dumps(mapping).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(put).close()
    daemon = daemons(*with_labels(server.url, "opensearch"))
    daemon.emit("a=1", "b=2")
    assert daemon.stop() == 0
    assert "refused 2 of 2 metrics, the first is 'a': HTTP 400" in daemon.logged()
    with open(daemon.spool + ".refused") as file:
        assert [json.loads(line)["name"] for line in file] == ["a", "b"]


def test_prometheus(servers, daemons):  # noqa: F811
    gateway = servers(Pushgateway)
    prometheus = servers(Prometheus, gateway)
    words = with_labels(gateway.url, "prometheus", "--job", "alexnet")
    words[words.index("--url")] = "--gateway"
    daemon = daemons(*words)
    publish(daemon)
    text = request(gateway.url + "/metrics")
    assert "# HELP alexnet_latency alexnet.latency\n" in text
    wait_until(lambda: prometheus.query('gr__e{job="alexnet"}'))
    valid = {re.sub("[^a-zA-Z0-9_:]", "_", name): value for name, value in VALUES.items()}
    valid["series"] = SERIES[-1]
    for name, value in valid.items():
        (result,) = prometheus.query('{__name__="%s", job="alexnet"}' % name)
        assert float(result["value"][1]) == float(value)
        labels = result["metric"]
        assert (labels["run"], labels["host"]) == ("42", LABELS["host"])


def test_prometheus_does_not_mix_two_names_that_become_one(servers, daemons):  # noqa: F811
    gateway = servers(Pushgateway)
    daemon = daemons("prometheus", "--gateway", gateway.url)
    daemon.emit("a.b=1", "a/b=2", "c=3")
    assert daemon.stop() == 0
    assert "'a/b': it would become a_b, which is 'a.b' already" in daemon.logged()
    text = request(gateway.url + "/metrics")
    assert 'a_b{instance="",job="benchmark"} 1\n' in text
    assert 'c{instance="",job="benchmark"} 3\n' in text


def test_cloudwatch(servers, daemons, monkeypatch):  # noqa: F811
    server = servers(Moto)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    import boto3

    labels = {"run": "42"}
    daemon = daemons("cloudwatch", "--region", "eu-west-1", "--label", "run=42")
    publish(daemon)
    client = boto3.client("cloudwatch", region_name="eu-west-1")
    now = datetime.datetime.now(datetime.timezone.utc)

    def statistics(name):
        answer = client.get_metric_statistics(
            Namespace="BenchmarkAI",
            MetricName=name,
            Dimensions=[{"Name": key, "Value": value} for key, value in labels.items()],
            StartTime=now - datetime.timedelta(hours=1),
            EndTime=now + datetime.timedelta(hours=1),
            Period=86400,
            Statistics=["SampleCount", "Sum", "Minimum", "Maximum"],
        )
        return answer["Datapoints"]

    for name, value in VALUES.items():
        (point,) = statistics(name)
        assert (point["SampleCount"], point["Sum"]) == (1, float(value)), name
    points = statistics("series")
    assert sum(point["SampleCount"] for point in points) == len(SERIES)
    assert min(point["Minimum"] for point in points) == min(SERIES)
    assert max(point["Maximum"] for point in points) == max(SERIES)


def test_cloudwatch_puts_aside_what_is_beyond_its_limits(servers, daemons, monkeypatch):  # noqa: F811
    monkeypatch.setenv("AWS_ENDPOINT_URL", servers(Moto).url)
    daemon = daemons("cloudwatch", "--region", "eu-west-1")
    daemon.emit("a=1", "n" * 256 + "=1", "big=1e300", "b=2")
    assert daemon.stop() == 0
    with open(daemon.spool + ".refused") as file:
        reasons = [json.loads(line)["reason"] for line in file]
    assert reasons == ["its name is longer than 255 characters", "its value is beyond 2**360"]
    assert "delivered 2, refused 2, waiting 0" in daemon.logged()


@pytest.mark.parametrize(
    "words, message",
    [
        (["cloudwatch", "--label", "größe=1"], "is not plain ASCII"),
        (["cloudwatch"] + ["--label=n%d=1" % n for n in range(31)], "more than 30 labels"),
        (["prometheus", "--label", "a-b=1"], "cannot be one of Prometheus"),
        (["influxdb", "--database", "x", "--label", "a=b\\"], "the line protocol cannot hold"),
        (["influxdb"], "Missing option '--database'"),
        (["influxdb", "--database", "x", "--url", "localhost"], "begins with neither http://"),
        (["influxdb", "--database=x", "--url=http://me:secret@localhost"], "leave the user and"),
        (["influxdb", "--database=x", "--password-file", "/none"], "No such file"),
    ],
)
def test_options_that_cannot_be_used_are_refused(words, message):
    result = run([BAI_DAEMON] + words + ["--", "true"])
    assert result.code == 2
    assert message in " ".join(result.err.split())
    assert "secret" not in result.err


def test_otlp(servers, daemons, tmp_path):  # noqa: F811
    server = servers(Oteltap)
    proxy = servers(Proxy, server)
    publish(daemons(*with_labels(proxy.url, "otlp")))
    found = {}

    def all_there():
        found.clear()
        with open(server.folder + "/log") as log:
            for line in log:
                if line.startswith("{"):
                    metric = json.loads(line)
                    found.setdefault(metric["name"], []).extend(
                        point["asDouble"] for point in metric["gauge"]["dataPoints"]
                    )
        return sum(map(len, found.values())) >= len(SERIES) + len(VALUES)

    wait_until(all_there)
    assert found.pop("series") == [float(value) for value in SERIES]
    assert found == {name: [float(value)] for name, value in VALUES.items()}
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )

    for body in proxy.bodies:
        sent = ExportMetricsServiceRequest.FromString(body)
        for resource in sent.resource_metrics:
            attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
            assert attributes == LABELS


def test_the_quick_start_of_the_readme(servers):  # noqa: F811
    with open(ROOT + "/README.md", encoding="utf-8") as file:
        readme = file.read()
    (command,) = re.findall(r"^bai-daemon prometheus .*$", readme, re.M)
    shown = re.search(r"now has `(.*?)`", readme).group(1)
    gateway = servers(Pushgateway)
    result = run(["sh", "-c", command.replace("http://localhost:9091", gateway.url)])
    assert result.code == 0, result.err
    assert shown + "\n" in request(gateway.url + "/metrics")


def test_secrets_reach_the_server_and_nothing_else(servers, daemons, tmp_path):  # noqa: F811
    file = tmp_path / "password"
    file.write_text("qwertz\n")
    seen = []

    def see(number):
        return (401, {}) if number == 1 else None

    server = servers(InfluxDB)
    proxy = servers(Proxy, server, see)
    original = proxy.server.RequestHandlerClass.handle_any

    def handle(handler):
        seen.append(handler.headers["Authorization"])
        original(handler)

    proxy.server.RequestHandlerClass.do_POST = handle
    words = ["influxdb", "--database", "benchmarks", "--url", proxy.url, "--log-level", "debug"]
    daemon = daemons(*words, "--user", "me", "--password-file", str(file))
    daemon.emit("a=1")
    wait_until(lambda: server.points())
    assert daemon.stop() == 0
    assert seen[0] == "Basic " + base64.b64encode(b"me:qwertz").decode()
    assert "cannot deliver: HTTP 401" in daemon.logged()
    assert "qwertz" not in daemon.logged()
    assert seen[0].split()[1] not in daemon.logged()
