"""What the servers cannot hold, by the backend: found without asking a server."""

import time

import pytest

from benchmarkai.daemon import backends
from benchmarkai.daemon.metric import Metric

TOO_LONG = "the label {!r} is longer than 255, or its value than 1024 characters"
NOT_ASCII = "the label {!r} is not plain ASCII"
NOT_ALLOWED = "Prometheus does not allow the label {!r}: use letters, digits and _ only"
UNWRITABLE = (
    "{!r} has a tab, a line break or a backslash at its end, which the line protocol cannot express"
)


def backend(name):
    """Return a backend without its client, which these methods do not use."""
    kind = backends.load(name)
    return object.__new__(kind)


LABELS = [
    *((name, {}, None) for name in backends.NAMES),
    *((name, {"run": "42", "host_1": "a b/c=d,e"}, None) for name in backends.NAMES),
    ("stdout", {"größe": "\n"}, None),
    ("elasticsearch", {"größe": "\n"}, None),
    ("opensearch", {"größe": "\n"}, None),
    ("otlp", {"größe": "\n"}, None),
    # cloudwatch
    ("cloudwatch", {f"n{number}": "1" for number in range(30)}, None),
    ("cloudwatch", {f"n{number}": "1" for number in range(31)}, "there are more than 30 labels"),
    ("cloudwatch", {"n" * 255: "1"}, None),
    ("cloudwatch", {"n" * 256: "1"}, TOO_LONG.format("n" * 256)),
    ("cloudwatch", {"a": "v" * 1024}, None),
    ("cloudwatch", {"a": "v" * 1025}, TOO_LONG.format("a")),
    ("cloudwatch", {"größe": "1"}, NOT_ASCII.format("größe")),
    ("cloudwatch", {"a": "größe"}, NOT_ASCII.format("a")),
    ("cloudwatch", {"a": "1\n2"}, NOT_ASCII.format("a")),
    ("cloudwatch", {"a": "\x7f"}, NOT_ASCII.format("a")),
    ("cloudwatch", {"a": " "}, NOT_ASCII.format("a")),
    ("cloudwatch", {" ": "1"}, NOT_ASCII.format(" ")),
    ("cloudwatch", {"a b": " 1"}, None),
    ("cloudwatch", {":a": "1"}, "the label ':a' starts with a colon"),
    ("cloudwatch", {"a:b": ":1"}, None),
    # prometheus
    ("prometheus", {"_a1": "größe\n"}, None),
    ("prometheus", {"a-b": "1"}, NOT_ALLOWED.format("a-b")),
    ("prometheus", {"a": "1", "a.b": "2"}, NOT_ALLOWED.format("a.b")),
    ("prometheus", {"a b": "1"}, NOT_ALLOWED.format("a b")),
    ("prometheus", {"a:b": "1"}, NOT_ALLOWED.format("a:b")),
    ("prometheus", {"1a": "1"}, NOT_ALLOWED.format("1a")),
    ("prometheus", {"__a": "1"}, NOT_ALLOWED.format("__a")),
    ("prometheus", {"größe": "1"}, NOT_ALLOWED.format("größe")),
    ("prometheus", {"a\n": "1"}, NOT_ALLOWED.format("a\n")),
    ("prometheus", {"job": "1"}, "the label job is set by --job"),
    ("prometheus", {"jobs": "job"}, None),
    # influxdb
    ("influxdb", {"größe": "a\\b, c=d"}, None),
    ("influxdb", {"a\\": "1"}, UNWRITABLE.format("a\\")),
    ("influxdb", {"a": "1\\"}, UNWRITABLE.format("1\\")),
    ("influxdb", {"a\tb": "1"}, UNWRITABLE.format("a\tb")),
    ("influxdb", {"a": "1\n2"}, UNWRITABLE.format("1\n2")),
    ("influxdb", {"a": "1\r"}, UNWRITABLE.format("1\r")),
    ("influxdb", {"time": "1"}, "InfluxDB does not allow a tag named time"),
    (
        "influxdb",
        {"__name__": "1"},
        "VictoriaMetrics takes a tag named __name__ for the name of the metric",
    ),
    (
        "otlp",
        {"__name__": "1"},
        "Prometheus takes an attribute named __name__ for the name of the metric",
    ),
    ("influxdb", {"a": "time", "times": "1"}, None),
]


def short_id(value):
    return repr(value)[:30]


@pytest.mark.parametrize("name, labels, reason", LABELS, ids=short_id)
def test_labels_that_a_server_cannot_hold_are_rejected(name, labels, reason):
    assert backend(name).reason_to_reject_labels(labels) == reason


def metric(value=1.0, age=0.0):
    return Metric("id", time.time_ns() - int(age * 10**9), "a", value, {})


DAY = 24 * 3600.0
COMMENT = "its name starts with #, which starts a comment in the line protocol"
AMBIGUOUS = "its name has a backslash before a comma, a space or =, which the line protocol drops"

NAMES = [
    *((name, "größe.a/b c", None) for name in ["stdout", "influxdb", "otlp"]),
    ("cloudwatch", "n" * 255, None),
    ("cloudwatch", "n" * 256, "its name is longer than 255 characters"),
    ("influxdb", "a\\b", None),
    ("influxdb", "a#", None),
    ("influxdb", "#a", COMMENT),
    ("influxdb", "a\\,b", AMBIGUOUS),
    ("influxdb", "a\\ b", AMBIGUOUS),
    ("influxdb", "a\\=b", AMBIGUOUS),
    ("influxdb", "a\\", UNWRITABLE.format("a\\")),
    ("influxdb", "a\nb", UNWRITABLE.format("a\nb")),
]


@pytest.mark.parametrize("name, metric_name, reason", NAMES, ids=short_id)
def test_names_that_a_server_cannot_hold_are_rejected(name, metric_name, reason):
    assert backend(name).reason_to_reject_name(metric_name) == reason


METRICS = [
    ("cloudwatch", metric(value=1.0, age=13.9 * DAY), None),
    ("cloudwatch", metric(value=2.0**360), None),
    ("cloudwatch", metric(value=-(2.0**360)), None),
    ("cloudwatch", metric(value=1.01 * 2.0**360), "its value is beyond 2**360"),
    ("cloudwatch", metric(value=-(2**361)), "its value is beyond 2**360"),
    ("cloudwatch", metric(age=14.1 * DAY), "it is older than two weeks"),
]


@pytest.mark.parametrize("name, metric, reason", METRICS, ids=short_id)
def test_metrics_that_a_server_cannot_hold_are_rejected(name, metric, reason):
    assert backend(name).reason_to_reject(metric) == reason


@pytest.mark.parametrize(
    "name, valid",
    [
        ("push_time_seconds", "push_time_seconds"),
        ("push.time/seconds", "push_time_seconds"),
        ("push failure_time_seconds", "push_failure_time_seconds"),
    ],
)
def test_a_name_that_the_pushgateway_uses_itself_is_rejected(name, valid):
    pytest.importorskip("prometheus_client", reason="pip install prometheus-client")
    prometheus = backends.load("prometheus")("http://localhost", "job")
    reason = f"the Pushgateway has its own metric {valid}: rename it"
    assert prometheus.reason_to_reject_name(name) == reason
    assert prometheus.reason_to_reject_name(name + "_") is None


def test_a_name_that_prometheus_would_mix_with_another_is_rejected():
    pytest.importorskip("prometheus_client", reason="pip install prometheus-client")
    prometheus = backends.load("prometheus")("http://localhost", "job")
    for _ in range(2):
        assert prometheus.reason_to_reject_name("a.b") is None
        assert prometheus.reason_to_reject_name("a/b") == (
            "it would become a_b, like 'a.b' before it: rename it"
        )
        assert prometheus.reason_to_reject_name("1") is None
        assert prometheus.reason_to_reject_name("_1") == (
            "it would become _1, like '1' before it: rename it"
        )
