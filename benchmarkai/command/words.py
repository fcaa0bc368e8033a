"""NAME=VALUE words into names and numbers. Pure functions."""

import os

from benchmarkai._compat import decode_utf8
from benchmarkai.errors import short_repr
from benchmarkai.metrics import MAX_DIGITS, check_unique

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, List, Tuple, Union  # noqa: F401

_NUMBER_CHARACTERS = "0123456789.eE+-"


def parse_words(words):
    # type: (Iterable[str]) -> List[Tuple[str, Union[int, float]]]
    """Return the (name, number) of each word.

    Raises ValueError for a word that is not NAME=VALUE, and for a name that is given twice.
    """
    pairs = []
    for word in words:
        name, equals, text = word.rpartition("=")
        if not equals:
            remedy = "write NAME=VALUE, such as loss=0.42"
            if word[:1] in ("{", "["):
                remedy = "pass JSON on stdin, one object per record"
            raise ValueError("%s has no '=': %s" % (short_repr(word), remedy))
        if not name:
            raise ValueError(
                "%s has no name: write NAME=VALUE, such as loss=0.42" % short_repr(word)
            )
        value = parse_number(text, word)
        if "=" in name and _has_space_after_number(name):
            raise ValueError(
                "%s looks like several metrics: make each NAME=VALUE an argument of its own (on "
                "stdin, separate them with plain spaces)" % short_repr(word)
            )
        pairs.append((name, value))
    if len(pairs) > 1:
        check_unique(pairs)
    return pairs


def decode_argument(argument):
    # type: (Any) -> str
    """Return an argument of the command line as text. It is UTF-8, whatever the locale says.

    Raises ValueError if it is not.
    """
    try:
        data = argument if isinstance(argument, bytes) else os.fsencode(argument)  # novm
        return decode_utf8(data)
    except UnicodeDecodeError:
        raise ValueError("%s is not UTF-8: write it in UTF-8" % short_repr(argument))


def parse_number(text, word):
    # type: (str, str) -> Union[int, float]
    """Return the int or float of a JSON number (RFC 8259), or of one like '+1', '.5' or '5.'.

    word: the text with its name, for the error.

    Raises ValueError for any other text.
    """
    unsigned = text.lstrip("+-")
    if not text.strip(_NUMBER_CHARACTERS) and not (unsigned[:1] == "0" and unsigned[1:2].isdigit()):
        try:
            if len(text) <= MAX_DIGITS:
                number = float(text) if text.strip("+-0123456789") else int(text)
                if number - number == 0:
                    return number
        except ValueError:
            pass
    raise ValueError(_explain(text, word))


def _has_space_after_number(name):
    # type: (str) -> bool
    """Return whether the name is like 'a=1 b', which a missing or a superfluous quote makes."""
    for part in (name + "x").split()[:-1]:
        _, equals, text = part.rstrip(",;").rpartition("=")
        try:
            if equals:
                parse_number(text, part)
                return True
        except ValueError:
            pass
    return False


def _explain(text, word):
    # type: (str, str) -> str
    """Return why the text is not a number, and what to do about it."""
    shown = short_repr(word)
    if not text:
        return "%s has no value: write NAME=VALUE, such as loss=0.42" % shown
    if "," in text[:-1] and text.lstrip("+-").replace(",", "").replace(".", "", 1).isdigit():
        return (
            "the value of %s has a comma: write a point, such as 0.42 (programs print it if run "
            "with LC_NUMERIC=C), and nothing between thousands" % shown
        )
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return (
            "the value of %s is not finite: JSON (RFC 8259) has no NaN and no infinities, so "
            "leave the metric out, or write a number such as 0.42" % shown
        )
    if not text.strip(_NUMBER_CHARACTERS) and any(digit in text for digit in "123456789"):
        if len(text) > MAX_DIGITS:
            return "the value of %s has more than %d digits: write it shorter, such as 1e100" % (
                shown,
                MAX_DIGITS,
            )
        try:
            if float(text) in (float("inf"), float("-inf")):
                return (
                    "the value of %s is larger than a float can be (1.8e308): "
                    "use a larger unit" % shown
                )
        except ValueError:
            pass
    return (
        "the value of %s is not a number: write it as in JSON, such as 42, 0.42 or 1e-3, and "
        "put its unit into the name" % shown
    )
