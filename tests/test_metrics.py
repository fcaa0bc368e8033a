# -*- coding: utf-8 -*-
"""Names and numbers into lines of JSON."""

from __future__ import unicode_literals

import decimal
import fractions
import json
import math
import sys
import warnings

import pytest

from benchmarkai._compat import PY2
from benchmarkai.metrics import (
    _prefixes,
    _templates,
    check,
    check_unique,
    encode,
    fill_template,
    make_template,
)

if PY2:
    from UserString import UserString
else:
    from collections import UserString

numpy = pytest.importorskip("numpy")


def encode_one_line(metrics):
    (line,) = encode(metrics.items())
    return line


class Level(int):
    def __repr__(self):
        return "high"


class Celsius(float):
    def __repr__(self):
        return "warm"


class Claims(float):
    """Not finite, whatever it says."""

    def __float__(self):
        return 1.0


class Scalar(object):
    """Like a tensor, it has both methods, and one of them may raise an error."""

    def __init__(self, value=None, error=None, index=None, dtype="torch.float32"):
        self.value, self.error, self.index, self.dtype = value, error, index, dtype

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
def test_the_line_equals_that_of_json_dumps(metrics):
    assert encode_one_line(metrics) == json.dumps(metrics) + "\n"


def test_a_name_may_be_utf8_on_python_2():
    name = "é".encode("utf-8") if PY2 else "é"
    assert encode_one_line({name: 1}) == '{"\\u00e9": 1}\n'


class Markup(str if not PY2 else type("")):
    """Like that of markupsafe, it escapes what is joined to it."""

    def __add__(self, other):
        return "escaped"

    __radd__ = __add__

    def __str__(self):
        return "escaped"


class AnyCase(str if not PY2 else type("")):
    def __eq__(self, other):
        return self.lower() == other.lower()

    def __hash__(self):
        return hash(self.lower())


@pytest.mark.parametrize("kind", [Markup, AnyCase] + ([] if PY2 else [numpy.str_]))
def test_a_name_of_a_subclass_is_its_text(kind):
    for name in ("loss", "LOSS", "größe", 'a"b'):
        _prefixes.clear()
        for each in (kind(name), name, kind(name)):
            assert encode_one_line({each: 0.5}) == json.dumps({name: 0.5}) + "\n"
            check([(each, 0.5)])
            assert all(type(key) in (str, type("")) for key in _prefixes)


def test_a_name_of_a_subclass_is_not_taken_for_one_that_it_equals():
    assert encode_one_line({"loss": 0.5}) == '{"loss": 0.5}\n'
    assert encode_one_line({AnyCase("LOSS"): 0.5}) == '{"LOSS": 0.5}\n'


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
        (numpy.array(0.25, dtype=">f8"), "0.25"),
        (numpy.array(7, dtype=">u2"), "7"),
        (numpy.ma.array(7, mask=False), "7"),
        (Scalar(value=0.5, dtype="<class 'numpy.float32'>"), "0.5"),
        (decimal.Decimal("0.42"), "0.42"),
        (fractions.Fraction(1, 4), "0.25"),
        (Scalar(value=0.5), "0.5"),
        (Scalar(value=3.0, index=3), "3"),
    ],
)
def test_numbers_of_other_types_convert_themselves(value, number):
    assert encode_one_line({"a": value}) == '{"a": %s}\n' % number


def test_a_python_2_long_is_written_without_an_l():
    assert encode_one_line({"a": 2**70}) == '{"a": 1180591620717411303424}\n'


@pytest.mark.parametrize(
    "value",
    [
        "0.42",
        "",
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
        numpy.void(b"5"),
        numpy.array((1,), dtype=[("point", "i4")])[()],
        numpy.ma.masked,
        numpy.ma.array(5, mask=True),
        numpy.ma.array(0.5, mask=True),
        Scalar(error=RuntimeError("a Tensor with 2 elements cannot be converted")),
        Scalar(error=TypeError("no")),
    ],
)
def test_a_value_that_is_not_a_number_is_rejected_by_name(value):
    with pytest.raises(TypeError) as caught:
        encode([("the.name", value)])
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
        Scalar(value=float("nan")),
        Claims("nan"),
        Scalar(error=OverflowError("too large")),
    ],
)
def test_a_number_that_is_not_finite_is_rejected_by_name(value):
    with pytest.raises(ValueError) as caught:
        encode([("good", 1), ("the.name", value)])
    assert str(caught.value).startswith("'the.name' is ")
    assert "RFC 8259" in str(caught.value)


@pytest.mark.parametrize(
    "name, error",
    [("", ValueError), (1, TypeError), (None, TypeError), (("a",), TypeError)]
    + ([(b"\xff", ValueError)] if PY2 else [(b"a", TypeError)]),
)
def test_a_name_that_is_empty_or_not_text_is_rejected(name, error):
    with pytest.raises(error) as caught:
        encode([(name, 0.42)])
    assert "0.42" in str(caught.value)


def test_no_metrics_at_all_are_rejected():
    with pytest.raises(ValueError) as caught:
        encode([])
    assert "no metrics" in str(caught.value)


def test_a_string_of_numpy_2_is_not_a_number():
    dtype = getattr(getattr(numpy, "dtypes", None), "StringDType", None)
    if dtype is None:
        pytest.skip("needs numpy 2")
    with pytest.raises(TypeError):
        encode([("a", numpy.array("5", dtype=dtype()))])


def test_an_integer_that_python_does_not_convert_is_rejected_by_name():
    try:
        str(10**5000)
    except ValueError:
        with pytest.raises(ValueError) as caught:
            encode([("big", 10**5000)])
        assert str(caught.value).startswith("'big' is an integer with more digits")
    else:
        assert encode([("big", 10**5000)]) == ['{"big": %d}\n' % 10**5000]


def test_a_metric_named_digits_is_rejected_for_its_value_only():
    with pytest.raises(ValueError) as caught:
        encode([("digits", decimal.Decimal("NaN"))])
    assert "RFC 8259" in str(caught.value)


def test_an_error_message_shortens_a_long_value():
    with pytest.raises(TypeError) as caught:
        encode([("a", "x" * 100000)])
    assert len(str(caught.value)) < 300


def test_a_repeated_name_is_rejected():
    with pytest.raises(ValueError) as caught:
        check_unique([("a", 1), ("b", 2), ("a", 3)])
    assert "'a' is given twice" in str(caught.value) and "3" in str(caught.value)


def test_the_cache_of_names_is_bounded():
    for index in range(5000):
        encode([("name%d" % index, 1), ("x" * 1000 + str(index), 1)])
    assert len(_prefixes) <= 1024
    assert max(map(len, _prefixes)) <= 256


python_3 = pytest.mark.skipif(PY2, reason="Python 2 has no templates")


@python_3
def test_the_cache_of_templates_is_bounded():
    for index in range(1000):
        for metrics in ({"name%d" % index: 1, "x" * 30: 1}, {"x" * 2049 + str(index): 1}):
            make_template(metrics)
            make_template(metrics)
    assert 0 < len(_templates) <= 128
    assert max(map(len, _templates)) <= 2048


@python_3
@pytest.mark.skipif(sys.version_info < (3, 5), reason="Python 3.4 cannot fill templates")
def test_a_template_is_filled_with_plain_floats_and_ints_only():
    _templates.clear()
    metrics = {"100%": -0.0, 'é"': 10**30}
    for _ in range(2):
        assert fill_template(metrics) is None
        make_template(metrics)
    assert fill_template(metrics) == encode_one_line(metrics).encode("ascii")
    for value in (True, float("nan"), float("-inf"), Celsius(0.5), Level(3), numpy.float64(0.5)):
        assert fill_template({"100%": 1, 'é"': value}) is None
    make_template({"a": 1, "b": 2})
    make_template({"a": 1, "b": 2})
    assert fill_template({"a": 1, "b": 2}, 17) == b'{"a": 1, "b": 2}\n'
    assert fill_template({"a": 1, "b": 2}, 16) is None
    assert fill_template({"a\nb": 1}) is None
    make_template({"c\nd": 1, "e": 2})
    make_template({"c\nd": 1, "e": 2})
    assert fill_template({"c": 1, "d\ne": 2}) is None


def test_metrics_that_exceed_a_line_take_as_few_lines_as_possible_in_order():
    pairs = list(("name%03d" % index, index) for index in range(100))
    lines = encode(pairs, 50)
    assert all(len(line) <= 50 and line.endswith("}\n") for line in lines)
    found = [pair for line in lines for pair in json.loads(line, object_pairs_hook=list)]
    assert found == pairs
    # No line has room for the first metric of the next.
    for line, following in zip(lines, lines[1:]):
        assert len(line) + len(", ") + len(following.split(",")[0].strip("{}\n")) > 50


@pytest.mark.parametrize("length, count", [(50, 1), (49, 2)])
def test_a_line_may_be_exactly_as_long_as_the_limit(length, count):
    pairs = list([("a" * 15, 1), ("b" * 19, 22)])
    assert len(encode(pairs)[0]) == 50
    assert len(encode(pairs, length)) == count


def test_a_metric_that_does_not_fit_on_a_line_is_rejected_by_name():
    with pytest.raises(ValueError) as caught:
        encode([("short", 1), ("much.too.long" * 10, 2)], 100)
    assert "much.too.long" in str(caught.value)
    assert "shorten the name" in str(caught.value)


def test_a_torch_tensor_of_one_number_is_a_number():
    torch = pytest.importorskip("torch")
    assert encode_one_line({"a": torch.tensor(0.5), "b": torch.tensor(3)}) == '{"a": 0.5, "b": 3}\n'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode_one_line({"a": torch.tensor(0.5, requires_grad=True)}) == '{"a": 0.5}\n'
    for value in (torch.tensor([1.0, 2.0]), torch.tensor(True), torch.tensor(1j)):
        with pytest.raises(TypeError):
            encode([("a", value)])
    with pytest.raises(ValueError):
        encode([("a", torch.tensor(float("nan")))])


hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies


@hypothesis.given(
    strategies.dictionaries(
        strategies.text(min_size=1),
        strategies.floats(allow_nan=False, allow_infinity=False) | strategies.integers(),
        min_size=1,
    )
)
def test_any_metrics_parse_back_from_their_line(metrics):
    line = encode_one_line(metrics)
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
def test_lines_of_any_size_contain_all_metrics_in_order(metrics, max_line_size):
    pairs = list(metrics.items())
    hypothesis.assume(all(len(encode([pair])[0]) <= max_line_size for pair in pairs))
    lines = encode(pairs, max_line_size)
    assert all(len(line) <= max_line_size for line in lines)
    found = [pair for line in lines for pair in json.loads(line, object_pairs_hook=list)]
    assert found == pairs


names = strategies.text(min_size=1, max_size=3) | strategies.sampled_from(
    ["a", b"a", "\ud800", "", b"", b"\xff", 1, None, ("a",), ["a"]]
)
values = strategies.one_of(
    strategies.floats(),
    strategies.integers(),
    strategies.just(5000).map(lambda digits: 10**digits),  # has no repr() on some Pythons
    strategies.sampled_from(
        [Celsius(20.5), Level(3), numpy.float64(0.42), numpy.array(7), decimal.Decimal("0.42")]
        + [fractions.Fraction(1, 4), Scalar(value=0.5), Scalar(value=3.0, index=3)]
    ),
    strategies.sampled_from(
        [float("nan"), numpy.float32("inf"), decimal.Decimal("sNaN"), Celsius("nan")]
        + [fractions.Fraction(10**400), True, None, "0.42", b"0.42", [0.42], object(), 1j]
        + [numpy.bool_(True), numpy.array([1.0, 2.0]), Scalar(error=RuntimeError("no"))]
    ),
)


def error_of(function, pairs):
    """Return the type and the text of the error that the function raises; None without one."""
    try:
        function(pairs)
    except (TypeError, ValueError) as error:
        return type(error), str(error)
    return None


@hypothesis.given(strategies.lists(strategies.tuples(names, values), max_size=4))
def test_check_raises_the_error_that_encode_raises(pairs):
    _prefixes.clear()
    error = error_of(check, pairs)
    _prefixes.clear()
    assert error_of(encode, pairs) == error
    # Once more, now that the good names are in the cache.
    assert error_of(check, pairs) == error


similar_names = strategies.text('ab%"\né', max_size=3) | strategies.sampled_from(
    [AnyCase("A"), AnyCase("a"), Markup("a"), Markup('a"b'), b"a", 1, True, None, ("a",)]
)


@python_3
@hypothesis.given(
    strategies.dictionaries(similar_names, values | strategies.floats(), max_size=3),
    strategies.sampled_from([None, 12, 40]),
)
def test_a_filled_template_is_the_line_of_encode(metrics, max_line_size):
    if error_of(encode, [(name, 1) for name in metrics]) is None:
        make_template(metrics)
        make_template(metrics)
    line = fill_template(metrics, max_line_size)
    if line is not None:
        assert [line.decode("ascii")] == encode(metrics.items(), max_line_size)
