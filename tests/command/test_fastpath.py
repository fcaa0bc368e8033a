# -*- coding: utf-8 -*-
"""The contract of the fast path: it returns what the slow path gives for each line, or None."""

from __future__ import unicode_literals

import contextlib

import pytest

from benchmarkai.command import fastpath
from benchmarkai.command.records import EncodedLines, Problem, Record, RecordReader
from benchmarkai.metrics import encode

hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies


@contextlib.contextmanager
def slow_path_only():
    saved = fastpath.encode_lines, fastpath.parse_lines
    fastpath.encode_lines = fastpath.parse_lines = lambda data: None
    try:
        yield
    finally:
        fastpath.encode_lines, fastpath.parse_lines = saved


def read(*blocks):
    reader = RecordReader()
    found = []
    for block in blocks:
        found += reader.feed(block)
    return found + reader.end()


def published(found):
    """Return (line, text) for what would be published, and (line, message) for what would not."""
    result = []
    for each in found:
        if isinstance(each, EncodedLines):
            for index, text in enumerate(each.text.split("\n")[:-1]):
                result.append((each.line + index, text + "\n"))
        elif isinstance(each, Problem):
            result.append(each)
        else:
            try:
                result.append((each.line, "".join(encode(each.pairs))))
            except (TypeError, ValueError) as error:
                result.append((each.line, str(error)))
    return result


def check_contract(data):
    """Check whole lines against the slow path; return whether each function took them."""
    with slow_path_only():
        expected = published(read(data, b"bad\n"))
        slow = read(b"\n" + data)  # not at the start of the stream, where a BOM is removed
    assert published(read(data, b"bad\n")) == expected
    one_record_per_line = [(line + 2, Record) for line in range(data.count(b"\n"))]
    encoded, parsed = fastpath.encode_lines(data), fastpath.parse_lines(data)
    if encoded is not None or parsed is not None:
        assert [(each.line, type(each)) for each in slow] == one_record_per_line
    if encoded is not None:
        assert encoded == "".join("".join(encode(record.pairs)) for record in slow)
    if parsed is not None:
        # As text, because 1 == 1.0 and 0.0 == -0.0.
        assert repr(list(map(list, parsed))) == repr([list(record.pairs) for record in slow])
    return encoded is not None, parsed is not None


# Names and numbers that encode() leaves as they are, and others that look like them.
NAMES = (
    ["a" * 199, "a" * 200, "a" * 201, "", " ", "a b", "a=b", "=", "{", "{a", "a{", "}", "["]
    + ["a\\", "\\u0041", '"', "a'", "\t", "\x00", "\x1f", "\x7f", "\x85", "\u00a0", "\u2028"]
    + ["é", "\u0663"]
)
NUMBERS = (
    ["0", "-0", "-0.0", "007", "-01.5", "00.5", "0.50", "5.", ".5", "+1", "1e3", "1E5", "1e16"]
    + ["0.001", "0.0001", "0.00001", "0.30000000000000004", "0.1000000000000000055", "1.0e+16"]
    + ["9007199254740993.0", "12345678901234567.0", "0." + "3" * 21, "0." + "3" * 31]
    + ["9" * 18, "9" * 19, "-" + "9" * 19, "9" * 200, "9" * 201, "9" * 4301, "0." + "3" * 4301]
    + ["", " 1", "1 ", "1 2", "x", "nan", "NaN", "Infinity", "true", "null", '"1"', "1,5", "\u0663"]
)
MANTISSAS = ["1", "-2.5", "0", "10", "1.50"]
EXPONENTS = "-03 -04 -05 -06 -10 -100 -5 16 +14 +15 +16 +22 +309".split()
NUMBERS += ["1e" + exponent for exponent in EXPONENTS]

plain_names = strategies.text("abc._", min_size=1, max_size=4)
names = strategies.text('ab.{}= "\\[', min_size=1, max_size=4) | strategies.sampled_from(NAMES)
finite = strategies.one_of(
    strategies.floats(allow_nan=False, allow_infinity=False),
    strategies.floats(min_value=0, max_value=1000),
    strategies.decimals(-10, 10, places=5).map(float),
    strategies.integers(),
)
plain_numbers = finite.map(repr)
numbers = strategies.one_of(
    finite.map("{:.17g}".format),
    finite.map("{:.3f}".format),
    strategies.from_regex(r"\A-?[0-9]{1,3}(\.[0-9]{0,5})?(e[-+][0-9]{2})?\Z"),
    strategies.builds(
        "{0}e{1}".format, strategies.sampled_from(MANTISSAS), strategies.sampled_from(EXPONENTS)
    ),
    strategies.sampled_from(NUMBERS),
)


def words(names, numbers):
    return strategies.builds("{0}={1}".format, names, numbers)


def objects(names, numbers):
    return strategies.builds('{{"{0}": {1}}}'.format, names, numbers)


def two_of(lines):
    return strategies.builds("{0} {1}".format, lines, lines)


OTHER_LINES = (
    ['{"a":1}', '{"a": 1, "b": 2}', '{"a":1,"a":2}', '{"a": [1]}', '{"}": 1}', '{"a": 1}}', '{"x}']
    + ['{y": 1}', "{}", '{"a": "1"}', '{"a": {}}', ' {"a": 1}', '{"a": 1} ', "{", '1,{"a": 1}']
    + ["", " ", "}", "# comment", "\ufeffa=1", "a=1\tb=2", "a=1 b=2", "a=1\r", "\ra=1", "a=b=1"]
    # Pairs of lines that look like one object each, but are not.
    + ['{"a": [{"b": 1}\n{"c": 1}]}', '{"a": 1},{"b": 2}\n{"c": 3\n"d": 4}', '{"x}\n{y": 1}']
)
other_lines = strategies.sampled_from(OTHER_LINES)
near_words = words(names, plain_numbers) | words(plain_names, numbers)
near_objects = objects(names, plain_numbers) | objects(plain_names, numbers)


def blocks(plain, *near):
    """Generate lines that are all plain but for one at most."""
    return strategies.builds(
        lambda before, line, after: before + line + after,
        strategies.lists(plain, min_size=1, max_size=2),
        strategies.lists(strategies.one_of(*near), max_size=1),
        strategies.lists(plain, max_size=2),
    )


many_lines = strategies.one_of(
    blocks(words(plain_names, plain_numbers), near_words, other_lines),
    blocks(objects(plain_names, plain_numbers), near_objects, other_lines),
    strategies.lists(near_words, min_size=1, max_size=3),
    strategies.lists(near_objects, min_size=1, max_size=3),
    strategies.lists(
        near_words | near_objects | two_of(near_words) | two_of(near_objects) | other_lines,
        min_size=1,
        max_size=4,
    ),
)
data_of_lines = strategies.builds(
    lambda lines, newline: "".join(line + newline for line in lines).encode("utf-8"),
    many_lines,
    strategies.sampled_from(["\n", "\n", "\n", "\r\n"]),
)
data_of_bytes = strategies.lists(strategies.binary(max_size=10), min_size=1, max_size=4).map(
    lambda lines: b"".join(line + b"\n" for line in lines)
)

EXAMPLES = ["a=%s" % number for number in NUMBERS] + ['{"a": %s}' % number for number in NUMBERS]
EXAMPLES += ["%s=1" % name for name in NAMES] + ['{"%s": 1}' % name for name in NAMES]
EXAMPLES += OTHER_LINES
EXAMPLES += ["b=2\n" + line for line in EXAMPLES] + ['{"b": 2}\n' + line for line in EXAMPLES]


def with_examples(lines):
    def decorate(test):
        for line in reversed(lines):
            test = hypothesis.example((line + "\n").encode("utf-8"))(test)
        return test

    return decorate


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(data_of_lines | data_of_lines | data_of_bytes)
@with_examples(EXAMPLES)
def test_the_fast_path_returns_what_the_slow_path_gives_or_none(data):
    encoded, parsed = check_contract(data)
    hypothesis.event(str("encode_lines: %s, parse_lines: %s") % (encoded, parsed))


ordinary = strategies.floats(-1e6, 1e6).filter(lambda number: "e-" not in repr(number))


@hypothesis.given(ordinary, ordinary | strategies.integers(-(10**14), 10**14))
def test_lines_that_encode_wrote_are_returned_as_they_are(first, second):
    data = "a=%r\nb=%r\n" % (first, second)
    expected = encode([("a", first)])[0] + encode([("b", second)])[0]
    assert fastpath.encode_lines(data.encode("ascii")) == expected
    assert fastpath.encode_lines(expected.encode("ascii")) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"loss=0.42\n",
        b"alexnet.latency=16\nalexnet.latency=-17\n",
        b'{"loss": 0.42}\n{"loss": 1e-05}\n',
        b"loss=0.30000000000000004\n" * 300,
        b'{"loss": 12345678.912345678}\n' * 300,
        ('{"%s": 1}\n' % ("x" * 200)).encode("ascii"),
    ],
)
def test_encode_lines_takes_the_common_forms(data):
    assert check_contract(data)[0]


@pytest.mark.parametrize(
    "data",
    [
        b"loss=0.420\n",
        b"loss=0.42\nepoch=3\n" * 300,
        "größe=1\nzahl=0.50\n".encode("utf-8"),
        b'{"loss":0.42}\n{"loss":1e-5,"epoch":3}\n',
        b'{"a": 1, "b": 2}\n' * 300,
        b'{"loss": 0.42, "epoch": "three"}\n',
    ],
)
def test_parse_lines_takes_the_common_forms(data):
    assert check_contract(data)[1]
