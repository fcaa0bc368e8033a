"""The JSON of metrics."""

import json

from hypothesis import given
from hypothesis import strategies as st

from benchmarkai.daemon.backends.documents import Documents
from benchmarkai.daemon.metric import Metric, format_time

metrics = st.builds(
    Metric,
    st.just("id"),
    st.integers(0, 2**63 - 1),
    st.text() | st.sampled_from(["%s", "{}", '"', "\\"]),
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
    st.dictionaries(st.text(), st.text(), max_size=3),
)


separators = st.sampled_from([(", ", ": "), (",", ":")])


@given(metrics, st.sampled_from(["time", "@timestamp"]), separators)
def test_a_document_is_what_json_dumps_writes(metric, time, separators):
    document = {
        time: format_time(metric.time),
        "name": metric.name,
        "value": metric.value,
        "labels": metric.labels,
    }
    (text,) = Documents(time, separators).write([metric])
    assert text + "}" == json.dumps(document, separators=separators)


def test_documents_of_one_series_have_their_own_times_and_values():
    labels = {"run": "42"}
    metrics = [Metric("1", 10**9, "a", 1, labels), Metric("2", 2 * 10**9, "a", 0.5, labels)]
    assert Documents().write(metrics) == [
        f'{{"time": "1970-01-01T00:00:0{time}.000000000Z", "name": "a", "value": {value}, '
        '"labels": {"run": "42"}'
        for time, value in [(1, 1), (2, 0.5)]
    ]
