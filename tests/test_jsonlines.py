# -*- coding: utf-8 -*-
"""JSON objects into names and numbers, one at a time and many at once."""

from __future__ import unicode_literals

import json

import pytest

from benchmarkai.jsonlines import MAX_RECORD_SIZE, parse_object, parse_objects


@pytest.mark.parametrize(
    "text, pairs",
    [
        ('{"a": 1}', [("a", 1)]),
        ('{"b": 1, "a": 2.5, "c": -3e2}', [("b", 1), ("a", 2.5), ("c", -300.0)]),
        (' {\n"a" :\t1\r\n} ', [("a", 1)]),
        ('{"größe": 1, "\\u00e9": 2, "\\ud800": 3}', [("größe", 1), ("é", 2), ("\ud800", 3)]),
        ('{"": 1, "}": 2, "[": 3}', [("", 1), ("}", 2), ("[", 3)]),
        # encode() rejects the values that are not finite numbers.
        ('{"a": "1", "b": null, "c": true}', [("a", "1"), ("b", None), ("c", True)]),
        ('{"a": Infinity}', [("a", float("inf"))]),
        ("{}", []),
        ('{"a": ' + "1" * 4300 + "}", [("a", int("1" * 4300))]),
    ],
)
def test_an_object_is_parsed_into_pairs_in_order(text, pairs):
    assert parse_object(text) == tuple(pairs)
    assert [type(value) for _, value in parse_object(text)] == [type(value) for _, value in pairs]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "'' is not one JSON object: "),
        ('{"a": 1', "'{\"a\": 1' is not one JSON object: "),
        ('{"a": 1} {"b": 2}', "is not one JSON object: Extra data"),
        ('{"a": 01}', "is not one JSON object: "),
        ('{"a\nb": 1}', "is not one JSON object: "),
        ("[1]", "'[1]' is not a JSON object"),
        ("0.42", "'0.42' is not a JSON object"),
        ("null", "'null' is not a JSON object"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' is given twice, the second time as 3"),
        ('{"a": {}}', "the value of 'a' is a nested object: metrics are flat, so"),
        ('{"a": 1, "b": [2]}', "the value of 'b' is a nested array: metrics are flat, so"),
        ("[" * 100000, "is nested too deep: metrics are flat"),
        ('{"a": ' + "1" * 4301 + "}", "a number has more than 4300 digits: write it shorter"),
        ('{"a": 0.' + "1" * 4301 + "}", "a number has more than 4300 digits: write it shorter"),
    ],
)
def test_any_other_text_is_rejected(text, message):
    with pytest.raises(ValueError) as caught:
        parse_object(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "data, objects",
    [
        (b'{"a": 1}\n', [[("a", 1)]]),
        (b'{"a": 1}\n{"b":2.5,"a":-1e3}\n', [[("a", 1)], [("b", 2.5), ("a", -1000.0)]]),
        (b"{}\n{}\n", [[], []]),
        ('{"größe": 1}\n'.encode("utf-8"), [[("größe", 1)]]),
        (b'{"a": "}"}\n{"a": null}\n', [[("a", "}")], [("a", None)]]),
    ],
)
def test_lines_of_one_object_each_are_parsed_at_once(data, objects):
    assert parse_objects(data) == [tuple(pairs) for pairs in objects]


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"{\n}\n",
        b'{"a": 1}\n\n{"b": 1}\n',
        b'{"a": 1}\r\n{"b": 1}\r\n',
        b' {"a": 1}\n{"b": 1} \n',
        b'{"a": 1}\na=1\n',
        b'{"a": 1, "a": 2}\n',
        b'{"a": {}}\n{"b": 1}\n',
        b'{"a": [1]}\n',
        b'{"a": [{"b": 1}\n{"c": 1}]}\n',
        b'{"a": 1},{"b": 2}\n{"c": 3\n"d": 4}\n',
        b'{"x}\n{y": 1}\n',
        b'{"{": 1}\n',
        b'{"\xff": 1}\n',
        b'{"\xed\xa0\x80": 1}\n',
        b'{"a": ' + b"1" * 4301 + b"}\n",
        b'{"a": 0.' + b"1" * 4301 + b"}\n",
        b'"x",{"a": 1}\n',
        b'1,{"a": 1}\n',
        b'{"a": "' + b"x" * MAX_RECORD_SIZE + b'"}\n',
    ],
)
def test_other_lines_are_left_to_parse_object(data):
    assert parse_objects(data) is None


hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies

numbers = strategies.integers() | strategies.floats(allow_nan=False)
objects = strategies.dictionaries(strategies.text(max_size=5), numbers, max_size=4)
styles = strategies.sampled_from([{}, {"separators": (",", ":")}])
fragments = strategies.sampled_from(
    ['{"a": 1}', '{"a":1,"a":2}', '{"a": [1]}', '{"}": 1}', '{"a": 1}}', '{"x}', '{y": 1}', "{}"]
)


@hypothesis.given(strategies.lists(objects, min_size=1, max_size=5), styles)
def test_any_objects_are_parsed_back_from_their_lines(metrics, style):
    lines = [json.dumps(each, **style) for each in metrics]
    assert [parse_object(line) for line in lines] == [tuple(each.items()) for each in metrics]
    if not any(character in "".join(each) for each in metrics for character in "{["):
        parsed = parse_objects("".join(line + "\n" for line in lines).encode("ascii"))
        assert parsed == [tuple(each.items()) for each in metrics]


@hypothesis.given(strategies.lists(objects.map(json.dumps) | fragments, min_size=1, max_size=4))
def test_parse_objects_returns_what_parse_object_does_or_none(lines):
    parsed = parse_objects("".join(line + "\n" for line in lines).encode("ascii"))
    if parsed is not None:
        assert repr(parsed) == repr([parse_object(line) for line in lines])
