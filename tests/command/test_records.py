# -*- coding: utf-8 -*-
"""The bytes of a stream into records, whatever the sizes of the blocks."""

from __future__ import unicode_literals

import gc
import json
import re

import pytest

from benchmarkai.command.records import EncodedLines, Problem, Record, RecordReader
from benchmarkai.jsonlines import MAX_RECORD_SIZE
from benchmarkai.metrics import encode


def read(data, size=None):
    """Return [(line, metrics)] and [(line, message)] of data that arrives in blocks of a size."""
    reader = RecordReader()
    found = []
    for start in range(0, len(data), size or len(data) or 1):
        found += reader.feed(data[start : start + (size or len(data))])
    good, bad = [], []
    for each in found + reader.end():
        if isinstance(each, EncodedLines):
            texts = each.text[:-1].split("\n")
            good += [(each.line + index, json.loads(text)) for index, text in enumerate(texts)]
        elif isinstance(each, Record):
            good.append((each.line, dict(each.pairs)))
        else:
            bad.append((each.line, each.message))
    return good, bad


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"loss=0.5\n", EncodedLines(1, '{"loss": 0.5}\n')),
        (b"loss=.5 epoch=3\n", Record(1, [("loss", 0.5), ("epoch", 3)])),
        (b"loss=\n", Problem(1, "'loss=' has no value: write NAME=VALUE, such as loss=0.42")),
    ],
)
def test_feed_returns_encoded_lines_records_and_problems(data, expected):
    (found,) = RecordReader().feed(data)
    assert type(found) is type(expected)
    assert found == expected


GOOD = [
    (b'{"a": 1}\n', [(1, {"a": 1})]),
    (b'{"a": 1}', [(1, {"a": 1})]),
    (b'{"a":1}\n{"b":2.5}\n', [(1, {"a": 1}), (2, {"b": 2.5})]),
    (b'\n\n  {"a": 1}  \n \t \n{"b": 2}\n', [(3, {"a": 1}), (5, {"b": 2})]),
    (b'{"a": 1}\r\n{"b": 2}\r\n', [(1, {"a": 1}), (2, {"b": 2})]),
    (b'{\n  "a": 1,\n  "b": 2\n}\n{"c": 3}\n', [(1, {"a": 1, "b": 2}), (5, {"c": 3})]),
    (b'{"a":\n\n1\n}', [(1, {"a": 1})]),
    (b'{"}": 1}\n{"{": 2}\n', [(1, {"}": 1}), (2, {"{": 2})]),
    (b'{"\\"}": 1,\n"\\\\": 2}\n', [(1, {'"}': 1, "\\": 2})]),
    (b'{"a=1": 1,\n"b=2": 2}\n', [(1, {"a=1": 1, "b=2": 2})]),
    (b'{"[": 1}\n{"b": 2}\n', [(1, {"[": 1}), (2, {"b": 2})]),
    (b"a=1\n", [(1, {"a": 1})]),
    (b"a=1 b=2.5\tc=3\n  d=4\r\n", [(1, {"a": 1, "b": 2.5, "c": 3}), (2, {"d": 4})]),
    (b"a=1\rb=2\r\n", [(1, {"a": 1, "b": 2})]),
    (b'a=1\n{"b": 2}\nc=3', [(1, {"a": 1}), (2, {"b": 2}), (3, {"c": 3})]),
    ('{"größe": 1}\ngröße=2\n'.encode("utf-8"), [(1, {"größe": 1}), (2, {"größe": 2})]),
    (b'\xef\xbb\xbf{"a": 1}\n', [(1, {"a": 1})]),
    (
        b'a=1\n\xef\xbb\xbfb=2\n\xef\xbb\xbf{"c": 3}\n',
        [(1, {"a": 1}), (2, {"b": 2}), (3, {"c": 3})],
    ),
    (b'{"a": 1\n,\n"b": 2}\n', [(1, {"a": 1, "b": 2})]),
    (b'{"a=1 b": 2}\n', [(1, {"a=1 b": 2})]),
    ("a\u00a0b=1\n".encode("utf-8"), [(1, {"a\u00a0b": 1})]),
    (b'{"\\ud800": 1}\n', [(1, {"\ud800": 1})]),
    (b"", []),
    (b"\n\r\n \n", []),
]


@pytest.mark.parametrize("size", [None, 1, 3])
@pytest.mark.parametrize("data, expected", GOOD)
def test_records_do_not_depend_on_where_blocks_end(data, expected, size):
    assert read(data, size) == (expected, [])


BAD = [
    # data, good records, (line, part of the message) of the rejected ones
    (b'{"a": 1\n{"b": 2}\n', [(2, {"b": 2})], [(1, 'not closed: end it with "}"')]),
    (b'{"a": 1,\nb=2\n', [(2, {"b": 2})], [(1, "is not closed")]),
    (b'{"a": 1,\n"b": 2\n', [], [(1, "is not closed")]),
    (b'{"a": }\n{"b": 2}\n', [(2, {"b": 2})], [(1, "'{\"a\": }' is not one JSON object")]),
    (b'{"a": 1}}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "is not one JSON object")]),
    (b'{"a": 1} {"b": 2}\n', [], [(1, "is not one JSON object")]),
    (b'{"a": 1},\n{"b": 2}\n', [(2, {"b": 2})], [(1, "is not one JSON object")]),
    (b'{"a": 1, "a": 2}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "'a' is given twice")]),
    (b'{"a": 1,\n"a": 2}\n{"b": 2}\n', [(3, {"b": 2})], [(1, "'a' is given twice")]),
    (b'{"a": {"b": 1}}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "value of 'a' is a nested object")]),
    (b'{"a": {\n"b": 1\n}\n}\nb=2\n', [(5, {"b": 2})], [(1, "value of 'a' is a nested object")]),
    (
        b'{"config" :\n  {\n "lr" : 0.1\n },\n "x": 1\n}\n{"b": 2}\n',
        [(7, {"b": 2})],
        [(1, "value of 'config' is a nested object")],
    ),
    (
        b'{"a":\n\n{\n"b":\n{"c": 1}\n},\n"d": ":"\n}\n{"b": 2}\n',
        [(9, {"b": 2})],
        [(1, "value of 'a' is a nested object")],
    ),
    (
        b'{"a": [\n{"b": 1},\n{"c": 1}\n,\n{\n"d": 1}\n]\n}\n{"b": 2}\n',
        [(9, {"b": 2})],
        [(1, "value of 'a' is a nested array")],
    ),
    # where the outer object is not closed, what seems to be nested is a record
    (b'{"a":\n{"b": 2}\n', [(2, {"b": 2})], [(1, "not closed")]),
    (b'{"a":\n{"b": 2}\n{"c": 3}\n', [(2, {"b": 2}), (3, {"c": 3})], [(1, "not closed")]),
    (b'{"a": [\n{"b": 2}\nc=3\n', [(2, {"b": 2}), (3, {"c": 3})], [(1, "not closed")]),
    (
        b'{"a":\n{"b": [\n{"c": 3\n}\n{"d": 4}\n',
        [(3, {"c": 3}), (5, {"d": 4})],
        [(1, "not closed"), (2, "not closed")],
    ),
    (
        b'{"a":\n{"\xff": 2}\n{"c": 3,\n"d": 4}\n',
        [(3, {"c": 3, "d": 4})],
        [(1, "not"), (2, "not UTF-8")],
    ),
    (b'{"a": ":"\n{"b": 2}\n', [(2, {"b": 2})], [(1, "not closed")]),
    (b'{"a": 1,\n{"b": 2}\n', [(2, {"b": 2})], [(1, "not closed")]),
    (b'{"a": [1]\n,\n{"b": 2}\n', [(3, {"b": 2})], [(1, "not closed")]),
    (b'{"a": {"c": 1,\n{"b": 2}\n', [(2, {"b": 2})], [(1, "not closed")]),
    (b'{"a": [1]}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "value of 'a' is a nested array")]),
    (b'{"a": [{"b": 1}\n{"c": 1}]}\n', [], [(1, "not closed"), (2, "is not one JSON object")]),
    (b'{"x}\n{y": 1}\n', [], [(1, "is not"), (2, "is not one JSON object")]),
    (
        b'{"a": 1},{"b": 2}\n{"c": 3\n"d": 4}\n',
        [],
        [(1, "is not one JSON object"), (2, "is not one JSON object")],
    ),
    (b"[1, 2]\nb=2\n", [(2, {"b": 2})], [(1, "pass JSON on stdin, one object per record")]),
    (b"hello\nb=2\n", [(2, {"b": 2})], [(1, "'hello' has no '='")]),
    (b"a=1 a=2\nb=2\n", [(2, {"b": 2})], [(1, "'a' is given twice")]),
    ("a=1\u00a0b=2\nb=2\n".encode("utf-8"), [(2, {"b": 2})], [(1, "like several metrics")]),
    ("a=1\u0085b=2\nb=2\n".encode("utf-8"), [(2, {"b": 2})], [(1, "like several metrics")]),
    ("a=1\u2028b=2\nb=2\n".encode("utf-8"), [(2, {"b": 2})], [(1, "like several metrics")]),
    (b"a=1\x0cb=2\nb=2\n", [(2, {"b": 2})], [(1, "like several metrics")]),
    (b"a=1 x\nb=2\n", [(2, {"b": 2})], [(1, "'x' has no '='")]),
    (b"a=\xff1\nb=2\n", [(2, {"b": 2})], [(1, "is not UTF-8 (byte 3)")]),
    (b"\xed\xa0\x80=1\nb=2\n", [(2, {"b": 2})], [(1, "is not UTF-8 (byte 1)")]),
    (b'{"\xff": 1}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "is not UTF-8")]),
    (b'{"a": 1,\n"\xff": 1}\n{"b": 2}\n', [(3, {"b": 2})], [(1, "is not UTF-8")]),
    (b'{"a\x00b": 1}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "is not one JSON object")]),
    (b'{"a": ' + b"1" * 10000 + b'}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "4300 digits")]),
    (b'{"a": ' + b"[" * 100000 + b'}\n{"b": 2}\n', [(2, {"b": 2})], [(1, '\'{"a": [[[')]),
    (b'{"a": ' + b'{"a": ' * 50000 + b'\n{"b": 2}\n', [(2, {"b": 2})], [(1, "not closed")]),
]


@pytest.mark.parametrize("size", [None, 1000, 7])
@pytest.mark.parametrize("data, good, bad", BAD)
def test_a_bad_record_is_rejected_with_its_line_and_costs_no_other(data, good, bad, size):
    if size == 7 and len(data) > 10000:
        size = 70
    found, rejected = read(data, size)
    assert found == good
    assert [line for line, _ in rejected] == [line for line, _ in bad]
    for (_, message), (_, part) in zip(rejected, bad):
        assert part in message
        assert "\n" not in message and len(message) < 500


@pytest.mark.parametrize("start", [b"a", b'{"a'])
@pytest.mark.parametrize("size", [None, 1 << 16])
def test_a_line_that_exceeds_the_limit_of_a_record_is_rejected(start, size):
    data = b"a=1\n" + start + b"x" * (3 * MAX_RECORD_SIZE) + b'": 1}\n{"b": 2}\n'
    good, bad = read(data, size)
    assert good == [(1, {"a": 1}), (3, {"b": 2})]
    assert bad == [(2, "the record is longer than 1048576 bytes: split it")]


def test_an_object_that_exceeds_the_limit_is_rejected_once():
    data = b'{"a": 1,\n' + b'"name": 1,\n' * 200000 + b'"z": 1}\n{"b": 2}\n'
    good, bad = read(data, 1 << 16)
    assert good == [(200003, {"b": 2})]
    assert bad == [(1, "the record is longer than 1048576 bytes: split it")]


@pytest.mark.slow
def test_no_part_of_a_nested_object_that_exceeds_the_limit_is_published():
    data = b'{"a": [\n' + b'{\n"name": 1\n},\n' * 200000 + b']}\n{"b": 2}\n'
    good, bad = read(data, 1 << 16)
    assert good == [(600003, {"b": 2})]
    assert bad == [(1, "the record is longer than 1048576 bytes: split it")]


def test_after_an_object_that_exceeds_the_limit_lines_have_their_numbers():
    long_line = b"z" * (2 * MAX_RECORD_SIZE) + b"\n"
    good, bad = read(b'{"a":\n{"b": 1}\n' + long_line + b'x1\nx2\n{"c": 1}\n')
    assert good == [(6, {"c": 1})]
    assert [line for line, _ in bad] == [1]


def test_brackets_without_end_take_bounded_memory():
    reader = RecordReader()
    reader.feed(b'{"a":\n')
    for _ in range(300):
        reader.feed(b"[" * 8000 + b"\n")
    assert len(reader._object._open) <= MAX_RECORD_SIZE


def test_an_object_with_a_line_that_exceeds_the_limit_is_rejected_once():
    data = b'{"a": 1,\n"' + b"x" * (2 * MAX_RECORD_SIZE) + b'": 1,\n"z": 1}\n{"b": 2}\n'
    good, bad = read(data, 1 << 16)
    assert good == [(4, {"b": 2})]
    assert bad == [(1, "the record is longer than 1048576 bytes: split it")]


def test_an_open_object_before_one_that_exceeds_the_limit_is_rejected_too():
    data = b'{"a": 1,\n{"' + b"x" * (2 * MAX_RECORD_SIZE) + b'": 1}\n{"b": 2}\n'
    for size in (None, 1 << 16):
        good, bad = read(data, size)
        assert good == [(3, {"b": 2})]
        assert [line for line, _ in bad] == [1, 2]
        assert "is not closed" in bad[0][1] and "is longer than" in bad[1][1]


def test_a_record_may_be_exactly_as_long_as_the_limit():
    name = "x" * (MAX_RECORD_SIZE - len('{"": 1}'))
    assert read(('{"%s": 1}\n' % name).encode(), 1 << 16) == ([(1, {name: 1})], [])
    assert read(('{"%sx": 1}\n' % name).encode(), 1 << 16)[0] == []


def test_a_line_without_end_takes_bounded_memory():
    reader = RecordReader()
    for _ in range(100):
        reader.feed(b"x" * (1 << 16))
        assert len(reader._buffer._partial_line) <= MAX_RECORD_SIZE + (1 << 16)
    problem, record = reader.feed(b"\nb=2\n")
    assert problem == Problem(1, "the record is longer than 1048576 bytes: split it")
    assert record == Record(2, [("b", 2)])


def test_the_first_open_line_is_that_of_the_open_object_or_the_next_line():
    reader = RecordReader()
    reader.feed(b"a=1\n")
    assert reader.first_open_line() == 2
    reader.feed(b'{"b": 1,\n"c": 2,\n')
    assert reader.first_open_line() == 2
    reader.feed(b"}\n\n")
    assert reader.first_open_line() == 6


@pytest.mark.parametrize("data", [b'{"a": 1\n{"b": 2}\n', b"a=x\n", b'{"a": x}\n', b"\xff\n"])
def test_a_rejected_record_leaves_no_reference_cycle(data):
    gc.collect()
    gc.disable()
    try:
        reader = RecordReader()
        reader.feed(data)
        del reader
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_an_object_is_returned_as_soon_as_its_line_ends():
    reader = RecordReader()
    assert reader.feed(b'{"a": 1}') == []
    assert reader.feed(b'\n{"b"') == [EncodedLines(1, '{"a": 1}\n')]


hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies

names = strategies.text(min_size=1, max_size=10)
numbers = strategies.floats(allow_nan=False, allow_infinity=False) | strategies.integers()
objects = strategies.dictionaries(names, numbers, min_size=1, max_size=4)
styles = strategies.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}])
garbage = strategies.binary(max_size=30).map(lambda data: data.replace(b"{", b""))


@hypothesis.given(
    strategies.lists(
        strategies.tuples(objects, styles, strategies.booleans()) | garbage, max_size=10
    ),
    strategies.integers(min_value=1, max_value=100),
)
def test_every_good_object_is_found_among_any_other_lines(parts, size):
    data, expected = b"", []
    for part in parts:
        if isinstance(part, bytes):
            data += part + b"\n"
        else:
            metrics, style, crlf = part
            text = json.dumps(metrics, **style).encode() + b"\n"
            data += text.replace(b"\n", b"\r\n") if crlf else text
            expected.append(metrics)
    good, _ = read(data, size)
    found = [metrics for _, metrics in good]
    position = 0
    for metrics in expected:
        assert metrics in found[position:]
        position = found.index(metrics, position) + 1


nested = strategies.recursive(
    numbers,
    lambda values: (
        strategies.lists(values, max_size=3) | strategies.dictionaries(names, values, max_size=3)
    ),
)


@pytest.mark.slow
@hypothesis.given(
    strategies.lists(
        strategies.tuples(strategies.dictionaries(names, nested, min_size=1, max_size=3), styles),
        max_size=5,
    ),
    strategies.randoms(),
)
def test_of_a_nested_object_no_part_is_published_wherever_its_lines_end(parts, random):
    data, expected, rejected = "", [], []
    for metrics, style in parts:
        line = data.count("\n") + 1
        if any(isinstance(value, (list, dict)) for value in metrics.values()):
            rejected.append(line)
        else:
            expected.append((line, metrics))
        # A line break after or before any token outside of strings.
        for token in re.findall(
            r'"(?:[^"\\]|\\.)*"|[][{}:,]|[^][{}:,"\s]+', json.dumps(metrics, **style)
        ):
            data += token + random.choice(["", "", " ", "\n"] if data[-1:] else [""])
        data = data.rstrip("\n") + "\n"
    good, bad = read(data.encode("ascii"), random.randint(1, 50))
    assert good == expected
    assert [line for line, _ in bad] == rejected


@hypothesis.given(strategies.binary(), strategies.integers(min_value=1, max_value=100))
def test_any_bytes_are_either_records_or_rejected(data, size):
    good, bad = read(data, size)
    assert [line for line, _ in good] == sorted(line for line, _ in good)
    for _, metrics in good:
        try:
            encode(metrics.items())
        except (TypeError, ValueError):
            pass
    assert read(data) == (good, bad)
