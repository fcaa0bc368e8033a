# -*- coding: utf-8 -*-
from __future__ import unicode_literals

import gc
import json

import pytest

from benchmarkai._compat import text_types
from benchmarkai.metrics import lines
from benchmarkai.records import LONGEST, Records, _canonical


def read(data, size=None):
    """Return ([(line, metrics)], [(line, message)]) of data that comes in blocks of a size."""
    records = Records()
    found = []
    for start in range(0, len(data), size or len(data) or 1):
        found += records.feed(data[start : start + (size or len(data))])
    return good_and_bad(found + records.end())


def good_and_bad(found):
    good, bad = [], []
    for line, pairs, problem in found:
        if isinstance(pairs, text_types):
            texts = pairs[:-1].split("\n")
            good += [(line + index, json.loads(text)) for index, text in enumerate(texts)]
        elif problem is None:
            good.append((line, dict(pairs)))
        else:
            bad.append((line, str(problem)))
    return good, bad


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
    ("a\u00a0b=1\n".encode("utf-8"), [(1, {"a\u00a0b": 1})]),
    (b'{"\\ud800": 1}\n', [(1, {"\ud800": 1})]),
    (b"", []),
    (b"\n\r\n \n", []),
]


@pytest.mark.parametrize("size", [None, 1, 3])
@pytest.mark.parametrize("data, expected", GOOD)
def test_records_are_found_wherever_the_blocks_end(data, expected, size):
    assert read(data, size) == (expected, [])


BAD = [
    # data, good records, (line, part of the message) of the refused ones
    (b'{"a": 1\n{"b": 2}\n', [(2, {"b": 2})], [(1, 'not closed: end it with "}"')]),
    (b'{"a": 1,\nb=2\n', [(2, {"b": 2})], [(1, "is not closed")]),
    (b'{"a": 1,\n"b": 2\n', [], [(1, "is not closed")]),
    (b'{"a": }\n{"b": 2}\n', [(2, {"b": 2})], [(1, "'{\"a\": }' is not one JSON object")]),
    (b'{"a": 1}}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "is not one JSON object")]),
    (b'{"a": 1} {"b": 2}\n', [], [(1, "is not one JSON object")]),
    (b'{"a": 1},\n{"b": 2}\n', [(2, {"b": 2})], [(1, "is not one JSON object")]),
    (b'{"a": 1, "a": 2}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "'a' is given twice")]),
    (b'{"a": 1,\n"a": 2}\n{"b": 2}\n', [(3, {"b": 2})], [(1, "'a' is given twice")]),
    (b'{"a": {"b": 1}}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "value of 'a' is an object")]),
    (b'{"a": {\n"b": 1\n}\n}\nb=2\n', [(5, {"b": 2})], [(1, "value of 'a' is an object")]),
    (b'{"a": [1]}\n{"b": 2}\n', [(2, {"b": 2})], [(1, "value of 'a' is an array")]),
    (b'{"a": [{"b": 1}\n{"c": 1}]}\n', [], [(1, "not closed"), (2, "is not one JSON object")]),
    (b'{"x}\n{y": 1}\n', [], [(1, "is not"), (2, "is not one JSON object")]),
    (
        b'{"a": 1},{"b": 2}\n{"c": 3\n"d": 4}\n',
        [],
        [(1, "is not one JSON object"), (2, "is not one JSON object")],
    ),
    (b"[1, 2]\nb=2\n", [(2, {"b": 2})], [(1, "give JSON on stdin, one object a record")]),
    (b"hello\nb=2\n", [(2, {"b": 2})], [(1, "'hello' has no '='")]),
    (b"a=1 a=2\nb=2\n", [(2, {"b": 2})], [(1, "'a' is given twice")]),
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
def test_a_bad_record_is_refused_by_its_line_and_costs_no_other(data, good, bad, size):
    if size == 7 and len(data) > 10000:
        size = 70
    found, refused = read(data, size)
    assert found == good
    assert [line for line, _ in refused] == [line for line, _ in bad]
    for (_, message), (_, part) in zip(refused, bad):
        assert part in message
        assert "\n" not in message and len(message) < 500


@pytest.mark.parametrize("start", [b"a", b'{"a'])
@pytest.mark.parametrize("size", [None, 1 << 16])
def test_a_line_longer_than_a_record_may_be_is_refused(start, size):
    data = b"a=1\n" + start + b"x" * (3 * LONGEST) + b'": 1}\n{"b": 2}\n'
    good, bad = read(data, size)
    assert good == [(1, {"a": 1}), (3, {"b": 2})]
    assert bad == [(2, "the record is longer than 1048576 bytes: split it")]


def test_an_object_longer_than_a_record_may_be_is_refused_once():
    data = b'{"a": 1,\n' + b'"name": 1,\n' * 200000 + b'"z": 1}\n{"b": 2}\n'
    good, bad = read(data, 1 << 16)
    assert good == [(200003, {"b": 2})]
    assert bad == [(1, "the record is longer than 1048576 bytes: split it")]


def test_an_object_with_a_line_longer_than_a_record_may_be_is_refused_once():
    data = b'{"a": 1,\n"' + b"x" * (2 * LONGEST) + b'": 1,\n"z": 1}\n{"b": 2}\n'
    good, bad = read(data, 1 << 16)
    assert good == [(4, {"b": 2})]
    assert bad == [(1, "the record is longer than 1048576 bytes: split it")]


def test_an_object_that_is_broken_off_by_a_long_one_is_refused_too():
    data = b'{"a": 1,\n{"' + b"x" * (2 * LONGEST) + b'": 1}\n{"b": 2}\n'
    for size in (None, 1 << 16):
        good, bad = read(data, size)
        assert good == [(3, {"b": 2})]
        assert [line for line, _ in bad] == [1, 2]
        assert "is not closed" in bad[0][1] and "is longer than" in bad[1][1]


def test_a_record_may_be_just_as_long_as_the_limit():
    name = "x" * (LONGEST - len('{"": 1}'))
    assert read(('{"%s": 1}\n' % name).encode(), 1 << 16) == ([(1, {name: 1})], [])
    assert read(('{"%sx": 1}\n' % name).encode(), 1 << 16)[0] == []


def test_a_stream_that_never_ends_a_line_takes_no_more_memory():
    records = Records()
    for _ in range(100):
        records.feed(b"x" * (1 << 16))
        assert len(records._rest) <= LONGEST + (1 << 16)
    assert records.feed(b"\nb=2\n") == [(2, [("b", 2)], None)]


def test_the_first_line_without_a_record_is_known():
    records = Records()
    records.feed(b"a=1\n")
    assert records.waiting_line() == 2
    records.feed(b'{"b": 1,\n"c": 2,\n')
    assert records.waiting_line() == 2
    records.feed(b"}\n\n")
    assert records.waiting_line() == 6


@pytest.mark.parametrize("data", [b'{"a": 1\n{"b": 2}\n', b"a=x\n", b'{"a": x}\n', b"\xff\n"])
def test_what_was_refused_leaves_nothing_for_the_garbage_collector(data):
    gc.collect()
    gc.disable()
    try:
        records = Records()
        records.feed(data)
        del records
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_an_object_is_found_as_soon_as_its_line_has_come():
    records = Records()
    assert records.feed(b'{"a": 1}') == []
    assert records.feed(b'\n{"b"') == [(1, '{"a": 1}\n', None)]


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
def test_whatever_stands_between_them_every_good_object_is_found(parts, size):
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


@hypothesis.given(strategies.binary(), strategies.integers(min_value=1, max_value=100))
def test_whatever_the_bytes_they_are_records_or_refused(data, size):
    good, bad = read(data, size)
    assert [line for line, _ in good] == sorted(line for line, _ in good)
    for _, metrics in good:
        try:
            lines(metrics.items())
        except (TypeError, ValueError):
            pass
    assert read(data) == (good, bad)


words_line = strategies.tuples(
    strategies.text("ab={.", min_size=1, max_size=3),
    strategies.sampled_from(["1", "-0", "007", "0.50", "1e3", "+1", ".5", "x", "9" * 19, ""]),
).map("=".join)
object_line = strategies.sampled_from(
    ['{"a": 1}', '{"a":1,"a":2}', '{"a": [1]}', '{"}": 1}', '{"a": 1}}', '{"x}', '{y": 1}', "{}"]
)


@hypothesis.given(
    strategies.lists(words_line, max_size=4) | strategies.lists(object_line, max_size=4)
)
def test_many_lines_at_once_are_taken_as_they_are_one_by_one(texts):
    data = "".join(text + "\n" for text in texts).encode()
    one_by_one = Records()
    found = []
    for line in data[:-1].split(b"\n"):
        found += one_by_one._one_line(line)
        one_by_one.line += 1
    found += one_by_one.end()
    if data:
        assert read(data) == good_and_bad(found)


numbers = strategies.one_of(
    strategies.floats(allow_nan=False, allow_infinity=False),
    strategies.floats(min_value=0, max_value=1000),
    strategies.integers(),
    strategies.decimals(-10, 10, places=5).map(float),
)
number_text = strategies.one_of(
    numbers.map(repr),
    numbers.map("{:.17g}".format),
    numbers.map("{:.3f}".format),
    strategies.from_regex(r"-?[0-9]{1,3}(\.[0-9]{0,5})?(e[-+][0-9]{2})?\Z"),
)


@hypothesis.given(strategies.text('ab.{}= "\\[', min_size=1, max_size=4), number_text)
@hypothesis.example("a", "-0.0")
@hypothesis.example("a", "-0")
@hypothesis.example("a", "0.0001")
@hypothesis.example("a", "0.00001")
@hypothesis.example("a", "1e16")
@hypothesis.example("a", "1e+16")
@hypothesis.example("a", "1e+15")
@hypothesis.example("a", "9007199254740993.0")
@hypothesis.example("a", "0.1000000000000000055")
def test_a_line_taken_as_it_is_is_what_its_metric_would_make(name, text):
    for data in ("%s=%s\n" % (name, text), '{"%s": %s}\n' % (name, text)):
        taken = _canonical(data.encode("utf-8"))
        if taken is not None:
            found = Records()._one_line(data[:-1].encode("utf-8"))
            assert [taken] == lines(found[0][1])


ordinary = strategies.floats(-1e6, 1e6).filter(lambda n: "e-" not in repr(n))


@hypothesis.given(ordinary, ordinary | strategies.integers(-(10**14), 10**14))
def test_lines_as_they_are_published_are_taken_as_they_are(first, second):
    data = "a=%r\nb=%r\n" % (first, second)
    expected = lines([("a", first)])[0] + lines([("b", second)])[0]
    assert _canonical(data.encode()) == _canonical(expected.encode()) == expected
