"""InfluxDB and VictoriaMetrics: what is sent, what their responses mean, and what they keep."""

import gzip
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarkai.daemon import backends
from benchmarkai.daemon.backends.base import Rejected, Unavailable
from benchmarkai.daemon.metric import Metric
from tests.daemon.backends.servers import InfluxDB, Proxy, VictoriaMetrics, request
from tests.daemon.harness import run_daemon
from tests.helpers import wait_until

ARGUMENTS = ["influxdb", "--database", "benchmarks", "--url"]
LOGIN = b"<html>Please log in</html>"
NOW = time.time_ns() // 10**9 * 10**9


def metric(name, value=1, labels={}, moment=10**18):
    return Metric("id " + name, moment, name, value, labels)


def make_backend(url="http://127.0.0.1:1", measurement=None):
    options = {} if measurement is None else {"measurement": measurement}
    return backends.load("influxdb")(url, "benchmarks", None, **options)


def read_series(server):
    """Return the labels, values, and times in milliseconds, of each series of VictoriaMetrics."""
    request(server.url + "/internal/force_flush")
    text = request(server.url + "/api/v1/export", {"match": '{__name__!=""}'})
    series = [json.loads(line) for line in text.splitlines()]
    return [(found["metric"], found["values"], found["timestamps"]) for found in series]


class WithoutSuffix(VictoriaMetrics):
    def command(self):
        return [*super().command(), "-influxSkipSingleField"]


def test_a_metric_is_a_line(start_server):
    proxy = start_server(Proxy, None, lambda number: (204, {}))
    labelled = metric("b", 0.5, {"run": "42"}, 10**18 + 1)
    assert make_backend(proxy.url).send([metric("a"), labelled]) is None
    assert proxy.bodies == [
        b"a value=1 1000000000000000000\nb,run=42 value=0.5 1000000000000000001"
    ]


def test_with_a_measurement_the_name_is_a_tag(start_server):
    proxy = start_server(Proxy, None, lambda number: (204, {}))
    metrics = [metric("a b,c=d"), metric("#b", 0.5, {"run": "42", "gpu": "0"})]
    make_backend(proxy.url, "my metrics").send(metrics)
    assert proxy.bodies == [
        b"my\\ metrics,metric=a\\ b\\,c\\=d value=1 1000000000000000000\n"
        b"my\\ metrics,gpu=0,metric=#b,run=42 value=0.5 1000000000000000000"
    ]


@pytest.mark.slow  # importing influxdb_client takes most of it
@pytest.mark.parametrize("measurement", [None, "a, b=\\c"])
def test_lines_are_those_that_influxdb_client_writes(start_server, measurement):
    influxdb_client = pytest.importorskip("influxdb_client", reason="pip install influxdb-client")
    proxy = start_server(Proxy, None, lambda number: (204, {}))
    backend = make_backend(proxy.url, measurement)
    texts = st.text("ab\\,= \"'#.0{}\0\x7f\xa0ß\u2028😀", max_size=5)
    names = texts.filter(lambda name: name and not backend.reason_to_reject_name(name))
    labels = st.dictionaries(texts, texts, max_size=4)
    metrics = st.builds(
        metric,
        names,
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**308), 10**308),
        labels.filter(lambda labels: not backend.reason_to_reject_labels(labels)),
        st.integers(0, 2**63 - 1),
    )

    def expected_line(metric):
        point = influxdb_client.Point(measurement or metric.name)
        if measurement:
            point.tag("metric", metric.name)
        for name, value in metric.labels.items():
            point.tag(name, value)
        return point.field("value", float(metric.value)).time(metric.time).to_line_protocol()

    @settings(max_examples=40, deadline=None)
    @given(st.lists(metrics, min_size=1, max_size=5))
    def check(metrics):
        backend.send(metrics)
        body = proxy.bodies.pop()
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        assert body.decode().split("\n") == [expected_line(metric) for metric in metrics]

    check()


@pytest.mark.parametrize("status", [200, 202])
def test_what_no_influxdb_responds_is_not_a_delivery(start_server, status):
    proxy = start_server(Proxy, None, lambda number: (status, {}, LOGIN))
    with pytest.raises(Unavailable) as caught:
        make_backend(proxy.url).send([metric("a")])
    message = f"unexpected response, HTTP {status}; is this an InfluxDB server?"
    assert str(caught.value) == message


def test_what_influxdb_rejects_has_its_reason(start_server):
    proxy = start_server(Proxy, None, lambda number: (400, {}, b"bad line"))
    with pytest.raises(Rejected) as caught:
        make_backend(proxy.url).send([metric("a")])
    assert str(caught.value).endswith("precision=ns: bad line")


FIELD = "the label 'value' has the name of the field with the value: rename it"
NAME = (
    "the label 'metric' has the name of the tag with the metric's name, because of --measurement: "
    "rename it"
)
AMBIGUOUS = (
    "{!r} has a backslash before a comma, a space or =, which VictoriaMetrics and InfluxDB read "
    "differently"
)
UNWRITABLE = (
    "{!r} has a tab, a line break or a backslash at its end, which the line protocol cannot express"
)


@pytest.mark.parametrize(
    "measurement, labels, reason",
    [
        (None, {"value": "1"}, FIELD),
        ("metrics", {"value": "1"}, FIELD),
        ("metrics", {"metric": "1"}, NAME),
        (None, {"metric": "1"}, None),
        ("metrics", {"a": "value", "b": "metric", "values": "1", "Metric": "1"}, None),
        ("metrics", {"time": "1"}, "InfluxDB does not allow a tag named time"),
        (None, {"a\\,b": "1"}, AMBIGUOUS.format("a\\,b")),
        (None, {"a\\=b": "1"}, AMBIGUOUS.format("a\\=b")),
        (None, {"a": "b\\ c"}, AMBIGUOUS.format("b\\ c")),
        (None, {"a\\b": "c\\d"}, None),
    ],
)
def test_labels_that_would_be_mixed_up_are_rejected(measurement, labels, reason):
    assert make_backend(measurement=measurement).reason_to_reject_labels(labels) == reason


@pytest.mark.parametrize(
    "name, reason",
    [
        ("#a", None),
        ("a\\b", None),
        ("a\\,b", AMBIGUOUS.format("a\\,b")),
        ("a\nb", UNWRITABLE.format("a\nb")),
        ("a\\", UNWRITABLE.format("a\\")),
    ],
)
def test_with_a_measurement_a_name_follows_the_rules_of_tags(name, reason):
    assert make_backend(measurement="metrics").reason_to_reject_name(name) == reason


@pytest.mark.parametrize(
    "measurement, reason",
    [
        ("#a", "its name starts with #, which starts a comment in the line protocol"),
        ("a\n", UNWRITABLE.format("a\n")),
    ],
)
def test_a_measurement_that_cannot_be_written_is_a_usage_error(measurement, reason):
    result = run_daemon(*ARGUMENTS, "http://x", "--measurement", measurement, "--", "true")
    assert (result.code, result.out) == (2, "")
    message = f"--measurement {measurement!r} cannot be sent: {reason}"
    assert message in " ".join(result.err.split())


def test_a_label_named_value_is_a_usage_error():
    result = run_daemon(*ARGUMENTS, "http://x", "--label", "value=1", "--", "true")
    assert (result.code, result.out) == (2, "")
    assert f"the labels cannot be sent: {FIELD}" in " ".join(result.err.split())


def test_influxdb_does_not_mix_names_with_backslashes(start_server, start_daemon):
    server = start_server(InfluxDB)
    daemon = start_daemon(*ARGUMENTS, server.url)
    names = ["a\\,b", "a,b", "a\\b", "a b", "a\\ b", "c\\", "#d"]
    daemon.emit(stdin=json.dumps({name: n for n, name in enumerate(names)}).encode())
    assert daemon.stop().code == 0
    assert sorted(point[0] for point in server.points()) == sorted(["a,b", "a\\b", "a b"])
    assert "delivered 3, rejected 4" in daemon.logged()


def test_labels_in_a_name_are_tags_but_for_one_named_value(start_server, start_daemon):
    server = start_server(InfluxDB)
    daemon = start_daemon(*ARGUMENTS, server.url, "--label", "run=42")
    daemon.emit('a{gpu="0"}=1', 'a{value="1"}=2')
    assert daemon.stop().code == 0
    assert [point[:3] for point in server.points()] == [("a", {"gpu": "0", "run": "42"}, 1)]
    assert [entry["reason"] for entry in daemon.rejected_entries()] == [FIELD]


@pytest.mark.parametrize("kind", [InfluxDB, VictoriaMetrics])
def test_one_measurement_keeps_metrics_and_labels_apart(start_server, start_daemon, kind):
    server = start_server(kind)
    options = ["--measurement", "all of them", "--label", "a b=c,d=e f"]
    daemon = start_daemon(*ARGUMENTS, server.url, *options)
    assert "database=benchmarks measurement=all of them" in daemon.logged()
    names = ["alexnet.latency", "a\\b", "#c,d", "größe = 1"]
    daemon.emit(stdin=json.dumps({name: n for n, name in enumerate(names)}).encode())
    assert daemon.stop().code == 0, daemon.logged()
    wait_until(lambda: len(server.points()) >= len(names))
    points = [(name, labels, value) for name, labels, value, _ in server.points()]
    assert sorted(points, key=lambda point: point[2]) == [
        ("all of them", {"a b": "c,d=e f", "metric": name}, n) for n, name in enumerate(names)
    ]


@pytest.mark.parametrize("kind", [InfluxDB, VictoriaMetrics])
def test_a_large_batch_arrives_compressed(start_server, kind):
    server = start_server(kind)
    proxy = start_server(Proxy, server)
    values = [number / 8 for number in range(500)]
    moments = [NOW - number * 10**6 for number in range(500)]
    make_backend(proxy.url).send(
        [metric("a", value, {}, moment) for value, moment in zip(values, moments)]
    )
    (body,) = proxy.bodies
    assert len(body) < len(gzip.decompress(body)) / 2
    wait_until(lambda: len(server.points()) == 500)
    found = {(moment, value) for _, _, value, moment in server.points()}
    assert found == set(zip(moments, values))


def test_influxdb_keeps_one_point_that_is_sent_twice_and_nanoseconds(start_server):
    server = start_server(InfluxDB)
    metrics = [metric("a", 1, {}, NOW), metric("a", 2, {}, NOW + 1)]
    for _ in range(2):
        make_backend(server.url).send(metrics)
    assert server.points() == [("a", {}, 1, NOW), ("a", {}, 2, NOW + 1)]


def test_victoria_metrics_keeps_milliseconds_and_repeats(start_server):
    server = start_server(VictoriaMetrics)
    metrics = [metric("a", 1, {}, NOW), metric("a", 2, {}, NOW + 999_999)]
    for _ in range(2):
        make_backend(server.url).send(metrics)
    (series,) = read_series(server)
    assert series[0] == {"__name__": "a_value", "db": "benchmarks"}
    assert sorted(series[1]) == [1, 1, 2, 2]
    assert set(series[2]) == {NOW // 10**6}


def test_victoria_metrics_keeps_twelve_digits(start_server):
    server = start_server(VictoriaMetrics)
    values = [1 / number for number in range(3, 1000)]
    make_backend(server.url).send(
        [metric("a", value, {}, NOW - n * 10**6) for n, value in enumerate(values)]
    )
    ((_, found, _),) = read_series(server)
    assert sorted(found) != sorted(values)
    assert sorted(found) == pytest.approx(sorted(values), rel=5e-12)


def test_victoria_metrics_without_the_suffix_has_the_names_as_they_are(start_server):
    server = start_server(WithoutSuffix)
    make_backend(server.url).send([metric("alexnet.latency", 1, {"db": "mine"}, NOW)])
    make_backend(server.url, "metrics").send([metric("alexnet.latency", 2, {}, NOW)])
    found = [(labels, values) for labels, values, _ in read_series(server)]
    named = {"__name__": "alexnet.latency", "db": "mine"}
    tagged = {"__name__": "metrics", "metric": "alexnet.latency", "db": "benchmarks"}
    assert sorted(found, key=lambda series: series[1]) == [(named, [1]), (tagged, [2])]
