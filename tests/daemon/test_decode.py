"""Lines from the pipe into metrics and rejected lines."""

import pytest

from benchmarkai.daemon import decode as decode_module
from benchmarkai.daemon.decode import decode


@pytest.mark.parametrize(
    "data, pairs",
    [
        (b'{"a": 1}\n', [("a", 1)]),
        (b'{"a": 1, "b": 2.5}\n{"a": 3}\n', [("a", 1), ("b", 2.5), ("a", 3)]),
        (b'\n  {"a": 1}  \r\n\n', [("a", 1)]),
        (b'{"gr\\u00f6\\u00dfe": 1}\n{"gr\xc3\xb6\xc3\x9fe": 2}\n', [("größe", 1), ("größe", 2)]),
        (b'{"[": 1}\n{"}": 2}\n{"a{": 3}\n', [("[", 1), ("}", 2), ("a{", 3)]),
        (b'{"a": %d}\n' % 10**400, [("a", 10**400)]),
        # Without a newline in between, as printf leaves it.
        (b'{"a": 1}{"b": 2}\n', [("a", 1), ("b", 2)]),
        # White space, though not for JSON.
        (b'\x0b{"a": 1}\n', [("a", 1)]),
        (b"\n\n", []),
        (b"", []),
    ],
)
def test_good_lines_are_accepted(data, pairs):
    assert decode(data) == (pairs, [])


@pytest.mark.parametrize(
    "line, reason",
    [
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
        (b'{"a": [1]}', "is a nested array"),
        (b'{"a": {"b": 1}}', "is a nested object"),
        (b'{"a": 1, "a": 2}', "is given twice"),
        (b'{"\\ud800": 1}', "half a character"),
        (b'{"\xff": 1}', "byte 3 is not UTF-8"),
        (b'{"a": 1', "is not one JSON object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "more than 4300 digits"),
        (b'{"a":' * 100000, "is nested too deep"),
        (b"[" * 100000, "is nested too deep"),
        (b'{"a": 1}' * 100, "is not one JSON object"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_bad_line_is_rejected_and_its_neighbours_are_accepted(line, reason):
    pairs, rejected = decode(b'{"x": 1}\n' + line + b'\n{"y": 2}\n')
    assert (pairs[0], pairs[-1]) == (("x", 1), ("y", 2))
    ((rejected_line, why),) = rejected
    # Of the records without newlines in between, the last 16 are accepted.
    assert line == rejected_line + b'{"a": 1}' * (len(pairs) - 2)
    assert len(pairs) in (2, 18)
    assert reason in why


def test_a_record_after_the_fragment_of_a_killed_writer_is_accepted():
    fragment = b'{"a": 1, "b'
    ((_, reason),) = decode(fragment + b"\n")[1]
    assert decode(fragment + b'{"c": 2}\n') == ([("c", 2)], [(fragment, reason)])


@pytest.mark.parametrize("value", [b"1", b"null", b'"ab"', b"true"])
def test_a_value_before_a_record_is_rejected_alone(value):
    accepted, rejected = decode(value + b',{"a": 1}\n')
    assert accepted == [("a", 1)]
    assert [each.line for each in rejected] == [value + b","]


def test_a_fragment_may_have_one_byte():
    accepted, rejected = decode(b'x{"a": 1}\n')
    assert accepted == [("a", 1)]
    assert [each.line for each in rejected] == [b"x"]


GOOD = b'{"a": 1, "b": 2.5}\n{"gr\\u00f6\\u00dfe": 1e-05}\n{"a":3}\n'


@pytest.mark.parametrize(
    "odd",
    [b"\xff", b"\x00", b"{}", b'{"a": 1e999}', b'{"a": 1}x', b'x{"a": 1}', b'{"a": 1}{"a": 2}']
    + [b'{"a": \xff}', b'{"a\\":1": 2}', b'{"a": 007}', b'{"\\ud800": 1}', b"a=1"],
)
def test_of_many_lines_each_is_decoded_as_if_it_were_alone(odd):
    lines = (GOOD + odd + b"\n" + GOOD).splitlines(True)
    alone = [decode(line) for line in lines]
    accepted, rejected = decode(b"".join(lines))
    assert repr(accepted) == repr([pair for pairs, _ in alone for pair in pairs])
    assert rejected == [each for _, bad in alone for each in bad]


def test_an_odd_line_does_not_make_the_lines_around_it_slow(monkeypatch):
    slow = []
    monkeypatch.setattr(decode_module, "_decode_line", lambda line, *lists: slow.append(line))
    decode(GOOD * 100 + b'\\\n{"a": 1' + b"\n" + GOOD * 100)
    assert slow == [b"\\", b'{"a": 1']
