# -*- coding: utf-8 -*-
from __future__ import unicode_literals

import decimal
import fractions
import json
import math
import warnings

import pytest

from benchmarkai._compat import PY2
from benchmarkai.metrics import check_unique, lines

if PY2:
    from UserString import UserString
else:
    from collections import UserString

numpy = pytest.importorskip("numpy")


def line_of(metrics):
    (line,) = lines(metrics.items())
    return line


class Level(int):
    def __repr__(self):
        return "high"


class Celsius(float):
    def __repr__(self):
        return "warm"


class OwnNumber(object):
    """As tensors are: with both methods, and one of them refuses."""

    def __init__(self, value=None, error=None, index=None):
        self.value, self.error, self.index = value, error, index

    def __index__(self):
        if self.index is None:
            raise TypeError("only integer tensors can be an index")
        return self.index

    def __float__(self):
        if self.error:
            raise self.error
        return self.value


@pytest.mark.parametrize(
    "metrics",
    [
        {"alexnet.latency": 0.42},
        {"a": 1},
        {"a": -1, "b": 0, "c": -0.0, "d": 1e22, "e": 1e-7, "f": 123456789.123456789},
        {"a": 10**30},
        {"a": 5e-324, "b": 1.7976931348623157e308, "c": -1.7976931348623157e308},
        {"é": 1.5, "\U0001f600": 2, 'quote"back\\slash\ttab\x7f': 3, "with space": 4},
        {"\ud800": 1},
        {"sub": Celsius(20.5)} if not PY2 else {"sub": 20.5},
        {"numpy": numpy.float64(0.42)},
    ]
    + ([] if PY2 else [{"enum": Level(3)}]),
)
def test_the_line_is_that_of_json_dumps(metrics):
    assert line_of(metrics) == json.dumps(metrics) + "\n"


def test_utf8_names_of_python_2_are_names():
    name = "é".encode("utf-8") if PY2 else "é"
    assert line_of({name: 1}) == '{"\\u00e9": 1}\n'


@pytest.mark.parametrize(
    "value, number",
    [
        (numpy.float16(0.5), "0.5"),
        (numpy.float32(0.1), "0.10000000149011612"),
        (numpy.longdouble(0.5), "0.5"),
        (numpy.int8(-3), "-3"),
        (numpy.uint64(2**64 - 1), "18446744073709551615"),
        (numpy.array(0.25), "0.25"),
        (numpy.array(7), "7"),
        (decimal.Decimal("0.42"), "0.42"),
        (fractions.Fraction(1, 4), "0.25"),
        (OwnNumber(value=0.5), "0.5"),
        (OwnNumber(value=3.0, index=3), "3"),
    ],
)
def test_numbers_of_other_types_convert_themselves(value, number):
    assert line_of({"a": value}) == '{"a": %s}\n' % number


def test_a_python_2_long_has_no_l_at_its_end():
    assert line_of({"a": 2**70}) == '{"a": 1180591620717411303424}\n'


@pytest.mark.parametrize(
    "value",
    [
        "0.42",
        "0.42",
        b"0.42",
        None,
        True,
        False,
        1j,
        [0.42],
        {},
        object(),
        numpy.bool_(True),
        numpy.array(True),
        numpy.array([1.0, 2.0]),
        numpy.array([]),
        numpy.array("1.5"),
        numpy.array("1.5", dtype=object),
        UserString("1.5"),
        numpy.complex64(1),
        numpy.complex128(1),
        numpy.timedelta64(5, "s"),
        numpy.datetime64("2026-01-01"),
        OwnNumber(error=RuntimeError("a Tensor with 2 elements cannot be converted")),
        OwnNumber(error=TypeError("no")),
    ],
)
def test_what_is_no_number_is_refused_by_name_and_value(value):
    with pytest.raises(TypeError) as caught:
        lines([("the.name", value)])
    message = str(caught.value)
    assert message.startswith("'the.name' is ")
    assert type(value).__name__ in message
    assert "such as 0.42" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        float("-inf"),
        numpy.float64("nan"),
        numpy.float32("inf"),
        decimal.Decimal("NaN"),
        decimal.Decimal("sNaN"),
        decimal.Decimal("1e999"),
        fractions.Fraction(10**400),
        OwnNumber(value=float("nan")),
        OwnNumber(error=OverflowError("too large")),
    ],
)
def test_numbers_that_are_not_finite_are_refused_by_name(value):
    with pytest.raises(ValueError) as caught:
        lines([("good", 1), ("the.name", value)])
    assert str(caught.value).startswith("'the.name' is ")
    assert "RFC 8259" in str(caught.value)


@pytest.mark.parametrize(
    "name, error",
    [("", ValueError), (1, TypeError), (None, TypeError), (("a",), TypeError)]
    + ([(b"\xff", ValueError)] if PY2 else [(b"a", TypeError)]),
)
def test_a_name_is_text_and_not_empty(name, error):
    with pytest.raises(error) as caught:
        lines([(name, 0.42)])
    assert "0.42" in str(caught.value)


def test_no_metrics_are_refused():
    with pytest.raises(ValueError) as caught:
        lines([])
    assert "no metrics" in str(caught.value)


def test_an_integer_that_python_cannot_write_is_refused_by_name():
    try:
        str(10**5000)
    except ValueError:
        with pytest.raises(ValueError) as caught:
            lines([("big", 10**5000)])
        assert str(caught.value).startswith("'big' is an integer of more digits")
    else:
        assert lines([("big", 10**5000)]) == ['{"big": %d}\n' % 10**5000]


def test_a_metric_may_be_named_digits():
    with pytest.raises(ValueError) as caught:
        lines([("digits", decimal.Decimal("NaN"))])
    assert "RFC 8259" in str(caught.value)


def test_a_long_value_is_shown_short():
    with pytest.raises(TypeError) as caught:
        lines([("a", "x" * 100000)])
    assert len(str(caught.value)) < 300


def test_a_name_given_twice_is_refused():
    with pytest.raises(ValueError) as caught:
        check_unique([("a", 1), ("b", 2), ("a", 3)])
    assert "'a' is given twice" in str(caught.value) and "3" in str(caught.value)


def test_remembering_names_does_not_grow_without_end():
    from benchmarkai import metrics

    for index in range(5000):
        lines([("name%d" % index, 1), ("x" * 1000 + str(index), 1)])
    assert len(metrics._starts) <= 1024
    assert max(map(len, metrics._starts)) <= 256


def test_members_that_fit_share_a_line_and_the_rest_follows_in_order():
    pairs = list(("name%03d" % index, index) for index in range(100))
    result = lines(pairs, 50)
    assert all(len(line) <= 50 and line.endswith("}\n") for line in result)
    found = [pair for line in result for pair in json.loads(line, object_pairs_hook=list)]
    assert found == pairs
    # None of the lines had room for the first member of the next.
    for line, following in zip(result, result[1:]):
        assert len(line) + len(", ") + len(following.split(",")[0].strip("{}\n")) > 50


@pytest.mark.parametrize("length, count", [(50, 1), (49, 2)])
def test_a_line_may_be_just_as_long_as_the_limit(length, count):
    pairs = list([("a" * 15, 1), ("b" * 19, 22)])
    assert len(lines(pairs)[0]) == 50
    assert len(lines(pairs, length)) == count


def test_a_member_that_fits_no_line_is_refused_by_name():
    with pytest.raises(ValueError) as caught:
        lines([("short", 1), ("much.too.long" * 10, 2)], 100)
    assert "much.too.long" in str(caught.value)
    assert "shorten the name" in str(caught.value)


def test_torch_tensors_of_one_number():
    torch = pytest.importorskip("torch")
    assert line_of({"a": torch.tensor(0.5), "b": torch.tensor(3)}) == '{"a": 0.5, "b": 3}\n'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert line_of({"a": torch.tensor(0.5, requires_grad=True)}) == '{"a": 0.5}\n'
    for value in (torch.tensor([1.0, 2.0]), torch.tensor(True), torch.tensor(1j)):
        with pytest.raises(TypeError):
            lines([("a", value)])
    with pytest.raises(ValueError):
        lines([("a", torch.tensor(float("nan")))])


hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies


@hypothesis.given(
    strategies.dictionaries(
        strategies.text(min_size=1),
        strategies.floats(allow_nan=False, allow_infinity=False) | strategies.integers(),
        min_size=1,
    )
)
def test_whatever_the_metrics_the_line_parses_back_to_them(metrics):
    line = line_of(metrics)
    assert line == json.dumps(metrics) + "\n"
    assert json.loads(line) == metrics
    for name, value in json.loads(line).items():
        assert type(value) is type(metrics[name]) or PY2
        assert not isinstance(value, float) or math.copysign(1, value) == math.copysign(
            1, metrics[name]
        )


@hypothesis.given(
    strategies.dictionaries(
        strategies.text(min_size=1, max_size=5), strategies.integers(), min_size=1
    ),
    strategies.integers(min_value=60, max_value=300),
)
def test_whatever_the_limit_the_lines_hold_all_metrics_in_order(metrics, longest):
    pairs = list(metrics.items())
    hypothesis.assume(all(len(lines([pair])[0]) <= longest for pair in pairs))
    result = lines(pairs, longest)
    assert all(len(line) <= longest for line in result)
    found = [pair for line in result for pair in json.loads(line, object_pairs_hook=list)]
    assert found == pairs
