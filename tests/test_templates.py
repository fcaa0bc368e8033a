# -*- coding: utf-8 -*-
"""Lines into templates and numbers. The readers' own tests hold that they come to the same."""

from __future__ import unicode_literals

import json

import pytest

from benchmarkai import templates
from benchmarkai.jsonlines import parse_object
from benchmarkai.templates import PLACE, PROBE, Templates, parse_numbers, split


def make_templates(parsed=None):
    def parse(line):
        if parsed is not None:
            parsed.append(line)
        return parse_object(line.decode("utf-8"))

    return Templates(parse, lambda pairs: [name for name, _ in pairs])


@pytest.mark.parametrize(
    "data, lines, numbers",
    [
        (b'{"a": 1}\n{"a":-2.50e+3}\n', [b'{"a":*}', b'{"a":*}'], [1, -2500.0]),
        (b"a=1 b=0.5\nc=0\n", [b"a=* b=*", b"c=*"], [1, 0.5, 0]),
        (b"\n\n", [b"", b""], []),
        # The numbers of the rarer form stay.
        (b'{"a": 1}\n{"a": 2}\na=1\n', [b'{"a":*}', b'{"a":*}', b"a=1"], [1, 2]),
        (b'a=1\na=2\n{"a": 1}\n', [b"a=*", b"a=*", b'{"a": 1}'], [1, 2]),
        # A byte that stands for numbers is never taken from the data.
        (b"\xff\na=1\n", [b"\xfe", b"a=*"], [1]),
        # Only what is a finite number in JSON and in words.
        (b"a=+1\nb=.5\nc=x1\n", [b"a=+1", b"b=.5", b"c=x1"], []),
        (b"a=007\n", [b"a=*07"], [0]),
        (b"a=1e999\n", [b"a=*9"], [1e99]),
        (b"a=" + b"1" * 19 + b"\n", [b"a=*1"], [int("1" * 18)]),
    ],
)
def test_lines_are_split_into_templates_and_numbers(data, lines, numbers):
    found, texts = split(data)
    assert found == [line.replace(b"*", PLACE) for line in lines]
    assert repr(parse_numbers(texts)) == repr(numbers)


def test_a_template_is_parsed_once():
    parsed = []
    found = make_templates(parsed)
    template = b'{"a":' + PLACE + b', "b":' + PLACE + b"}"
    assert [found[template], found[template]] == [["a", "b"]] * 2
    assert parsed == [template.replace(PLACE, PROBE.encode("ascii"))]


@pytest.mark.parametrize(
    "template",
    [
        b"",
        b"*",
        b"{}",
        b'{"a": 1}',
        b'{"a":*, "a":*}',
        b'{"a":*, "b": 1}',
        b'{"a":[*]}',
        b'{"a":*0}',
        b'{"a\\":*": 1}',
        b'{"a\\":*": 123456789012345678}',
        b'{"a\\":*":*}',
    ],
)
def test_a_template_whose_places_are_not_its_values_is_left_to_the_reader(template):
    assert make_templates()[template.replace(b"*", PLACE)] is None


def test_templates_take_bounded_memory():
    found = make_templates()
    for number in range(3000):
        assert found[('{"a%d":' % number).encode("ascii") + PLACE + b"}"] == ["a%d" % number]
        if number % 300 == 0:
            assert found[b"x" * (1000 + 10 * number)] is None
            size = sum(len(template) + templates._OVERHEAD for template in found)
            assert size <= templates._MAX_SIZE
    assert len(found) > 100


def test_a_very_long_line_is_not_split():
    data = b"a=1 " * (1 << 16) + b"\n"
    assert split(data + b"b=2\n") == ([data[:-1], b"b=2"], [])


hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies

numbers = strategies.integers() | strategies.floats(allow_nan=False, allow_infinity=False)
names = strategies.text(max_size=5) | strategies.text('ab": 1\\=', max_size=5)
objects = strategies.dictionaries(names, numbers, min_size=1, max_size=3)


@hypothesis.given(strategies.lists(objects, min_size=1, max_size=4), strategies.booleans())
def test_a_line_is_its_template_with_its_numbers(metrics, compact):
    style = {"separators": (",", ":")} if compact else {}
    lines = [json.dumps(each, **style).encode("ascii") for each in metrics]
    found = make_templates()
    line_templates, texts = split(b"".join(line + b"\n" for line in lines))
    values = parse_numbers(texts)
    for each, template in zip(metrics, line_templates):
        count = template.count(PLACE)
        if found[template] is not None:
            assert repr(list(zip(found[template], values))[:count]) == repr(list(each.items()))
        del values[:count]
    assert values == []
