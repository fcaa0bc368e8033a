import pytest

from benchmarkai.daemon.lines import parse_lines

GOOD = [
    (b'{"a": 1}\n', [("a", 1)]),
    (b'{"a": 1, "b": 2.5}\n{"a": 3}\n', [("a", 1), ("b", 2.5), ("a", 3)]),
    (b'\n  {"a": 1}  \r\n\n', [("a", 1)]),
    (b'{"gr\\u00f6\\u00dfe": 1}\n{"gr\xc3\xb6\xc3\x9fe": 2}\n', [("größe", 1), ("größe", 2)]),
    (b'{"[": 1}\n{"}": 2}\n{"a{": 3}\n', [("[", 1), ("}", 2), ("a{", 3)]),
    (b'{"a": %d}\n' % 10**400, [("a", 10**400)]),
    # Without a newline in between, as printf leaves it.
    (b'{"a": 1}{"b": 2}\n', [("a", 1), ("b", 2)]),
    (b"\n\n", []),
    (b"", []),
]


@pytest.mark.parametrize("data, metrics", GOOD)
def test_metrics_are_found(data, metrics):
    assert parse_lines(data) == (metrics, [])


BAD = [
    # line, part of the reason
    (b"hello", "is not one JSON object"),
    (b"a=1", "is not one JSON object"),
    (b"1", "is not a JSON object"),
    (b"[1]", "is not a JSON object"),
    (b'[{"a": 1}]', "is not a JSON object"),
    (b"{}", "no metrics"),
    (b'{"a": NaN}', "is nan"),
    (b'{"a": 1e999}', "is inf"),
    (b'{"a": true}', "of type bool"),
    (b'{"a": null}', "of type NoneType"),
    (b'{"a": "1"}', "of type str"),
    (b'{"": 1}', "is empty"),
    (b'{"a": [1]}', "is an array"),
    (b'{"a": {"b": 1}}', "is an object"),
    (b'{"a": 1, "a": 2}', "is given twice"),
    (b'{"\\ud800": 1}', "half a character"),
    (b'{"\xff": 1}', "is not UTF-8"),
    (b'{"a": 1', "is not one JSON object"),
    (b'{"a": ' + b"9" * 5000 + b"}", "more than 4300 digits"),
    (b'{"a":' * 100000, "is nested too deep"),
    (b"[" * 100000, "is nested too deep"),
    (b'{"a": 1}' * 100, "is not one JSON object"),
]


@pytest.mark.parametrize("line, reason", BAD)
def test_a_bad_line_costs_nothing_but_itself(line, reason):
    metrics, refused = parse_lines(b'{"x": 1}\n' + line + b'\n{"y": 2}\n')
    assert (metrics[0], metrics[-1]) == (("x", 1), ("y", 2))
    ((found, why),) = refused
    assert found == line[: len(found)]
    assert len(metrics) == 2 or line == found + b'{"a": 1}' * 16
    assert reason in why


def test_what_a_dead_writer_has_begun_does_not_cost_the_metric_behind_it():
    assert parse_lines(b'{"a": 1, "b{"c": 2}\n') == (
        [("c", 2)],
        [(b'{"a": 1, "b', parse_lines(b'{"a": 1, "b\n')[1][0][1])],
    )
