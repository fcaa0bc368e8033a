# -*- coding: utf-8 -*-
"""JSON objects into names and numbers."""

from __future__ import unicode_literals

import json

import pytest

from benchmarkai.jsonlines import parse_object


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


hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies

numbers = strategies.integers() | strategies.floats(allow_nan=False)
objects = strategies.dictionaries(strategies.text(max_size=5), numbers, max_size=4)
styles = strategies.sampled_from([{}, {"separators": (",", ":")}])


@hypothesis.given(objects, styles)
def test_any_object_is_parsed_back_from_its_text(metrics, style):
    assert parse_object(json.dumps(metrics, **style)) == tuple(metrics.items())
