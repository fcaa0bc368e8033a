"""Names that end in labels."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarkai.daemon import series
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.series import NameLabels, SeriesCache, split_name


@pytest.mark.parametrize(
    "text, name, labels",
    [
        (
            'latency{model="alexnet",batch="16"}',
            "latency",
            {"model": "alexnet", "batch": "16"},
        ),
        ('alexnet.latency{run="1"}', "alexnet.latency", {"run": "1"}),
        ("latency{}", "latency", {}),
        ('größe{a="b"}', "größe", {"a": "b"}),
        ('a b\t{ a = "b" ,\tc="d" , }', "a b", {"a": "b", "c": "d"}),
        (r'a{b="\\ \" \n"}', "a", {"b": '\\ " \n'}),
        ('a{b="c=d,e{}"}', "a", {"b": "c=d,e{}"}),
        (r'a{b="{c=\"d\"}"}', "a", {"b": '{c="d"}'}),
        ('a{b}{c="d"}', "a{b}", {"c": "d"}),
        ('a{b=""}', "a", {"b": ""}),
        ('a{"k8s.pod"="x",b="c"}', "a", {"k8s.pod": "x", "b": "c"}),
        ('a{b="größe"}', "a", {"b": "größe"}),
        ('a{__b="c"}', "a", {"__b": "c"}),
    ],
)
def test_a_name_may_end_in_labels(text, name, labels):
    assert split_name(text) == (name, labels)


@pytest.mark.slow
def test_labels_are_those_that_prometheus_reads():
    parser = pytest.importorskip("prometheus_client.parser", reason="pip install prometheus-client")
    values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"))
    names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True).filter(
        lambda name: not name.startswith("__")  # which the parser rejects
    )

    @settings(max_examples=200, deadline=None)
    @given(st.dictionaries(names, values), st.sampled_from(["", " ", " \t"]))
    def check(labels, blank):
        pairs = []
        for name, value in labels.items():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            pairs.append(f'{blank}{name}{blank}={blank}"{escaped}"{blank}')
        text = f"latency{{{','.join(pairs)}}}"
        (family,) = parser.text_string_to_metric_families(text + " 1\n")
        (sample,) = family.samples
        assert split_name(text) == (sample.name, sample.labels) == ("latency", labels)

    check()


@pytest.mark.parametrize(
    "text",
    [
        "latency",
        "latency}",
        "{}",
        ' {a="b"}',
        '{a="b"}',
        "a{b}",
        "a{b=c}",
        "a{b='c'}",
        'a{b="c}',
        'a{b="c"',
        'a{b="c"} ',
        'a{b="c"}d',
        'a{b="c" d="e"}',
        'a{,b="c"}',
        'a{b="c",,}',
        "a{,}",
        'a{1b="c"}',
        'a{b-c="d"}',
        'a{k8s.pod="x"}',
        'a{="b"}',
        'a{""="b"}',
        'a{b="c",b="d"}',
        'a{b="c","b"="d"}',
        'a{b="\n"}',
        'a{b="\\"}',
        'a{b="\\x"}',
        'a{größe="b"}',
        'a{__name__="b"}',
    ],
)
def test_a_name_that_ends_in_no_well_formed_labels_is_a_name(text):
    assert split_name(text) == (text, {})


@pytest.mark.parametrize(
    "text",
    [
        *("{" * 100000, '{a="' * 30000, '{a="b",' * 30000, '{"' * 50000),
        *("{" + " " * 100000, '{a="b"' + " " * 100000, '{a="b",' + " " * 100000),
        *('{a="b" ' + ",  " * 30000, "{a" + " " * 100000, "{a=" + " " * 100000),
    ],
    ids=lambda text: text[:8],
)
def test_a_long_name_is_read_at_once(text):
    assert split_name("a" + text + "x}") == ("a" + text + "x}", {})


def read(metrics, name_labels=None):
    found = (name_labels or NameLabels()).read(metrics)
    return [(metric.name, metric.labels) for metric in found]


def metrics_of(labels, *names):
    return [Metric("id", 1, name, 1, labels, 1) for name in names]


def test_the_labels_of_a_name_are_over_the_others():
    labels = {"run": "42", "host": "a"}
    metrics = metrics_of(labels, 'a{run="43",model="x"}', "b", 'c{host=""}')
    assert read(metrics) == [
        ("a", {"run": "43", "host": "a", "model": "x"}),
        ("b", labels),
        ("c", {"run": "42"}),
    ]


def test_metrics_with_the_same_name_and_labels_have_the_same_labels_object():
    labels = {"run": "42"}
    name_labels = NameLabels()
    metrics = metrics_of(labels, 'a{b="c"}', 'a{b="d"}')
    found = {id(metric.labels) for _ in range(3) for metric in name_labels.read(metrics)}
    assert len(found) == 2


def test_the_same_name_with_other_labels_of_the_run_is_told_apart():
    name_labels = NameLabels()
    for run in range(50):
        metrics = metrics_of({"run": str(run)}, 'a{b="c"}')
        assert read(metrics, name_labels) == [("a", {"run": str(run), "b": "c"})]


def test_the_number_of_names_that_are_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(series, "_MAX_KNOWN", 10)
    name_labels = NameLabels()
    labels = {}
    for number in range(100):
        metrics = metrics_of(labels, f'a{{b="{number}"}}')
        assert read(metrics, name_labels) == [("a", {"b": str(number)})]
        assert len(name_labels._cache._known) <= 10
        assert len(name_labels._cache._labels) <= 10


def test_a_metric_whose_name_does_not_end_in_labels_stays_as_it_is():
    metrics = metrics_of({"host": ""}, "a}", 'b{c="d"}')
    assert NameLabels().read(metrics)[0] is metrics[0]


def test_a_long_name_is_read_each_time():
    cache = SeriesCache(lambda name, labels: name)
    (metric,) = metrics_of({}, "a" * 100000)
    assert cache.of_each([metric] * 2) == [metric.name] * 2
    assert not cache._known


def test_what_else_is_known_of_a_metric_stays():
    metric = Metric("id", 123, 'a{b="c"}', 0.5, {}, 7)
    assert NameLabels().read([metric]) == [Metric("id", 123, "a", 0.5, {"b": "c"}, 7)]
