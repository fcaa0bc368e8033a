# -*- coding: utf-8 -*-
"""NAME=VALUE words into names and numbers."""

from __future__ import unicode_literals

import json

import pytest

from benchmarkai.command.words import parse_words


@pytest.mark.parametrize(
    "word, name, number",
    [
        ("alexnet.latency=0.42", "alexnet.latency", 0.42),
        ("a=16", "a", 16),
        ("a=-3", "a", -3),
        ("a=+1", "a", 1),
        ("a=.5", "a", 0.5),
        ("a=-.5", "a", -0.5),
        ("a=5.", "a", 5.0),
        ("a=1e3", "a", 1000.0),
        ("a=1E-3", "a", 0.001),
        ("a=5.e+2", "a", 500.0),
        ("a=0", "a", 0),
        ("a=0.0", "a", 0.0),
        ("a=-0", "a", 0),
        ("a=0e0", "a", 0.0),
        ("a=1e-999", "a", 0.0),
        ("a=123456789012345678901234567890", "a", 123456789012345678901234567890),
        ("a=b=1", "a=b", 1),
        ("==1", "=", 1),
        ("two words=1", "two words", 1),
        ("resnet 50=1", "resnet 50", 1),
        ("batch=large lr=1", "batch=large lr", 1),
        (" a =1", " a ", 1),
        ("größe=1", "größe", 1),
    ],
)
def test_a_word_is_a_name_and_a_number(word, name, number):
    assert parse_words([word]) == [(name, number)]
    assert type(parse_words([word])[0][1]) is type(number)


@pytest.mark.parametrize(
    "word, remedy",
    [
        ("loss", "'loss' has no '=': write NAME=VALUE"),
        ("", "'' has no '=': write NAME=VALUE"),
        ("=0.42", "'=0.42' has no name: write NAME=VALUE"),
        ("loss=", "'loss=' has no value: write NAME=VALUE, such as loss=0.42"),
        (
            "loss=0,42",
            "has a comma: write a point, such as 0.42 (programs print it if run with LC_NUM",
        ),
        ("loss=-1,5", "has a comma: write a point"),
        ("loss=nan", "'loss=nan' is not finite"),
        ("loss=NaN", "is not finite"),
        ("loss=inf", "is not finite"),
        ("loss=-Infinity", "is not finite"),
        ("loss=1e999", "'loss=1e999' is larger than a float can be (1.8e308): use a larger unit"),
        ("loss=-1e999", "is larger than a float can be"),
        ("loss=1_000", "'loss=1_000' is not a number: write it as in JSON"),
        ("loss=0x10", "is not a number"),
        ("loss=1e", "is not a number"),
        ("loss=.", "is not a number"),
        ("loss=+", "is not a number"),
        ("loss=--1", "is not a number"),
        ("loss=1-1", "is not a number"),
        ("loss=007", "is not a number"),
        ("loss=-01.5", "is not a number"),
        ("loss= 1", "is not a number"),
        ("loss=1 ", "is not a number"),
        ("loss=1\n", "is not a number"),
        ("loss=one", "is not a number"),
        ("loss=true", "is not a number"),
        ("loss=1,000,000", "and nothing between thousands"),
        ("loss=42ms", "and put its unit into the name"),
        ("a=1 b=2", "'a=1 b=2' looks like several metrics: make each NAME=VALUE an argument of"),
        ("a=1\nb=2", "looks like several metrics"),
        ("x a=1e3\tb c=2", "looks like several metrics"),
        ("a=1, b=2", "looks like several metrics"),
        ("a=1 =2", "looks like several metrics"),
        ("a=1\u00a0b=2", "looks like several metrics"),
        ('{"loss": 1}', "pass JSON on stdin, one object per record"),
        ("[1]", "pass JSON on stdin, one object per record"),
        ("loss=\u0663", "is not a number"),
        ("loss=1\u0663", "is not a number"),
        ("loss=" + "1" * 4301, "has more than 4300 digits"),
        ("loss=0." + "3" * 10000, "has more than 4300 digits"),
        ("loss=" + "e" * 10000, "is not a number"),
    ],
)
def test_any_other_word_is_rejected_with_the_remedy(word, remedy):
    with pytest.raises(ValueError) as caught:
        parse_words(["good=1", word])
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_repeated_name_is_rejected():
    with pytest.raises(ValueError) as caught:
        parse_words(["a=1", "b=2", "a=1"])
    assert "'a' is given twice" in str(caught.value)


hypothesis = pytest.importorskip("hypothesis")
numbers = hypothesis.strategies.floats(allow_nan=False, allow_infinity=False)


@hypothesis.given(numbers | hypothesis.strategies.integers())
def test_the_json_of_any_number_is_a_value(number):
    ((name, parsed),) = parse_words(["name=" + json.dumps(number)])
    assert parsed == number and type(parsed) is type(json.loads(json.dumps(number)))


@hypothesis.given(hypothesis.strategies.text())
def test_any_word_is_either_parsed_or_rejected(word):
    try:
        ((name, number),) = parse_words([word])
    except ValueError:
        return
    assert name and word.startswith(name + "=") and number - number == 0
