# -*- coding: utf-8 -*-
"""Lines into templates and numbers. The readers' own tests hold that they come to the same."""

from __future__ import unicode_literals

import json

import pytest

from benchmarkai import templates
from benchmarkai.jsonlines import parse_object
from benchmarkai.templates import PLACE, PROBE, Templates, parse_numbers, split


def with_places(text):
    return text.replace(b"*", PLACE)


def with_probes(text):
    return text.replace(b"*", PROBE.encode("ascii"))


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
    assert found == list(map(with_places, lines))
    assert repr(parse_numbers(texts)) == repr(numbers)


def test_a_template_is_parsed_once():
    parsed = []
    found = make_templates(parsed)
    for _ in range(2):
        lines = [b" {}", with_places(b' {"a":*}')] * 2
        assert found.of_each(lines) == [None, ["a"]] * 2
    assert set(parsed) == {b" {}", with_probes(b' {"a":*}')} and len(parsed) == 2


def test_objects_are_parsed_together():
    parsed = []
    found = make_templates(parsed)
    lines = [b'{"a":*}', b'{"b":*, "c":*}', b'{"d": 1}']
    assert found.of_each(list(map(with_places, lines))) == [["a"], ["b", "c"], None]
    assert parsed == []


def test_objects_are_parsed_one_by_one_if_one_is_bad():
    found = make_templates()
    lines = [b'{"a":*}', b'{"b":*', b'{"c":*}']
    assert found.of_each(list(map(with_places, lines))) == [["a"], None, ["c"]]


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
    assert make_templates().of_each([with_places(template)]) == [None]


def test_templates_take_bounded_memory():
    found = make_templates()
    known = [with_places(b'{"a":*}')]
    for number in range(60):
        lines = [with_places(('{"a%d":*}' % n).encode("ascii")) for n in range(number, 9000, 60)]
        lines += known + [b"x" * (1000 + 10 * number)]
        names = ["a%d" % n for n in range(number, 9000, 60)]
        assert found.of_each(lines) == [[name] for name in names] + [["a"], None]
        assert templates._size_of(found) == found._size <= templates._MAX_SIZE
    assert len(found) > 150


def test_of_more_templates_than_there_is_room_for_the_rest_is_left_to_the_reader():
    found = make_templates()
    lines = [with_places(('{"a%d":*}' % number).encode("ascii")) for number in range(9000)]
    for number, name in enumerate(found.of_each(lines)):
        assert name in (None, ["a%d" % number])
    assert templates._size_of(found) == found._size <= templates._MAX_SIZE
    assert 1000 < len(found) < 9000


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
        (found_names,) = found.of_each([template])
        if found_names is not None:
            assert repr(list(zip(found_names, values))[:count]) == repr(list(each.items()))
        del values[:count]
    assert values == []
