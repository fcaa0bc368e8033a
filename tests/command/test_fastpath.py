# -*- coding: utf-8 -*-
"""The contract of the fast path: it publishes what the slow path does."""

from __future__ import unicode_literals

import contextlib

import pytest

from benchmarkai.command import fastpath, records
from benchmarkai.command.records import EncodedLines, Problem, Record, RecordReader
from benchmarkai.metrics import encode

hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies


class NoTemplates(object):
    def of_each(self, templates):
        return [None] * len(templates)


@contextlib.contextmanager
def without(encode_lines=False, templates=False):
    """Switch parts of the fast path off; the slow path then does their work."""
    saved = fastpath.encode_lines, records._formats
    if encode_lines:
        fastpath.encode_lines = lambda data: None
    if templates:
        records._formats = NoTemplates()
    try:
        yield
    finally:
        fastpath.encode_lines, records._formats = saved


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
    """Check whole lines against the slow path; return whether encode_lines() took them."""
    with without(encode_lines=True, templates=True):
        expected = published(read(data, b"bad\n"))
        slow = read(b"\n" + data)  # not at the start of the stream, where a BOM is removed
    with without(encode_lines=True):
        assert published(read(data, b"bad\n")) == expected
        assert published(read(data, b"bad\n")) == expected  # with templates that are known
    assert published(read(data, b"bad\n")) == expected
    encoded = fastpath.encode_lines(data)
    if encoded is not None:
        assert [(each.line, type(each)) for each in slow] == [
            (line + 2, Record) for line in range(data.count(b"\n"))
        ]
        assert encoded == "".join("".join(encode(record.pairs)) for record in slow)
    return encoded is not None


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
def test_the_fast_path_publishes_what_the_slow_path_does(data):
    hypothesis.event(str("encode_lines: %s") % check_contract(data))


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
        b"loss=0.10000000000000001\nloss=-12345678901234567890\nloss=-1.0000000000000001e-05\n",
        ('{"%s": 1}\n' % ("x" * 200)).encode("ascii"),
    ],
)
def test_encode_lines_takes_the_common_forms(data):
    assert check_contract(data)


COMMON_LINES = [
    "loss=0.420",
    "loss=1.000000e-01 accuracy=50\tepoch=3",
    "größe=1",
    'latency{model="alexnet",batch="16"}=0.420',
    '{"loss":0.42}',
    '{"loss": 0.420000, "epoch": 3}',
    '{"loss":1E5,\t"epoch": 3 }\t',
    '{"gr\\u00f6\\u00dfe": -0, "größe.100%": 0.10000000000000001}',
    '{"latency{batch=\\"16\\"}":1e-05}',
    '{"std::sort[5]": 1.0}',
]


@pytest.mark.parametrize("line", COMMON_LINES)
def test_templates_take_the_common_forms(line):
    data = (line + "\n").encode("utf-8") * 2
    check_contract(data)
    with without(encode_lines=True):
        (found,) = read(data)
    assert (type(found), found.line) == (EncodedLines, 1)


@pytest.mark.parametrize("line", COMMON_LINES)
@pytest.mark.parametrize(
    "odd",
    [b"x", b"", b"\xff", b"\x00", b"a=.5", b'{"b": 1e999}', b'{"b":\n1\n}', b'{"b": 1, "b": 1}'],
)
def test_an_odd_line_does_not_make_the_lines_around_it_slow(line, odd):
    lines = (line + "\n").encode("utf-8") * 5
    data = lines + odd + b"\n" + lines
    check_contract(data)
    found = [(each.line, each.text) for each in read(data) if isinstance(each, EncodedLines)]
    assert [number for number, _ in found] == [1, 7 + odd.count(b"\n")]
    assert [text.count("\n") for _, text in found] == [5, 5]


@pytest.mark.parametrize(
    "data",
    [
        # Numbers in names, and in places that only look like values.
        b'{"a\\":1": 2}\n',
        b'{"a\\":1":  123456789012345678}\n',
        b'{"a\\":1": 123456789012345678}\n',
        b"a=123456789012345678\na=1=2\n",
        b'{"a": 1\xff}\n{"a": 1}\n',
        b'{"a": \xff}\n{"a": 1}\n',
        b'{"a": \xff, "b": 1}\n{"a": 1, "b":  2}\n',
        b'{"a": 1}\n{"a": 01}\n{"a": 1.}\n{"a": -}\n{"a": 1e}\n',
        b"a=%s=1\n",
        b"a=1\n{\na=2\n" + b'"b": 1\n}\nc=3\n',
        b"[\n" + b"a=1\n" * 3,
        b'{"a": [\n' + b'{"b": 1}\n' * 3 + b"]}\na=1\n",
    ],
)
def test_templates_are_not_deceived(data):
    check_contract(data)
    check_contract(data + b"a=1\n" * 9)
    check_contract(data + b'{"a": 1}\n' * 9)


def test_lines_that_might_not_fit_into_a_pipe_are_left_to_encode():
    line = " ".join("metric%d=0.5" % number for number in range(150)) + "\n"
    data = line.encode("ascii") * 2
    check_contract(data)
    assert [type(each) for each in read(data)] == [Record, Record]
