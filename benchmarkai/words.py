"""NAME=VALUE words into names and numbers: pure functions, no look at any stream."""

from benchmarkai.metrics import check_unique, show

_NUMBER = "0123456789.eE+-"

# Python 3.11 and newer convert no more digits than these, and older ones take ever longer.
MOST_DIGITS = 4300


def parse_words(words):
    """Return (name, number) for each of the words.

    Raises ValueError for a word that is not NAME=VALUE, and for a name given twice.
    """
    pairs = []
    for word in words:
        name, equals, text = word.rpartition("=")
        if not equals:
            remedy = "write NAME=VALUE, such as loss=0.42"
            if word[:1] in ("{", "["):
                remedy = "give JSON on stdin, one object a record"
            raise ValueError("%s has no '=': %s" % (show(word), remedy))
        if not name:
            raise ValueError("%s has no name: write NAME=VALUE, such as loss=0.42" % show(word))
        pairs.append((name, _parse_number(text, word)))
    if len(pairs) > 1:
        check_unique(pairs)
    return pairs


def _parse_number(text, word):
    """Return the int or float of a JSON number (RFC 8259), or of one like '+1', '.5', '5.'."""
    unsigned = text.lstrip("+-")
    if not text.strip(_NUMBER) and not (unsigned[:1] == "0" and unsigned[1:2].isdigit()):
        try:
            if len(text) <= MOST_DIGITS:
                number = float(text) if text.strip("+-0123456789") else int(text)
                if number - number == 0:
                    return number
        except ValueError:
            pass
    raise ValueError(_remedy(text, word))


def _remedy(text, word):
    if not text:
        return "%s has no value: write NAME=VALUE, such as loss=0.42" % show(word)
    if "," in text and text.lstrip("+-").replace(",", "").replace(".", "", 1).isdigit():
        return (
            "the value of %s has a comma: write a point, such as 0.42 (programs print it when run "
            "with LC_NUMERIC=C), and nothing between thousands" % show(word)
        )
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return (
            "the value of %s is not finite: JSON (RFC 8259) has no NaN and no infinities, so "
            "leave the metric out, or write a number such as 0.42" % show(word)
        )
    if not text.strip(_NUMBER) and any(digit in text for digit in "123456789"):
        if len(text) > MOST_DIGITS:
            return "the value of %s has more than %d digits: write it shorter, such as 1e100" % (
                show(word),
                MOST_DIGITS,
            )
        try:
            if float(text) in (float("inf"), float("-inf")):
                return (
                    "the value of %s is larger than a float can be (1.8e308): "
                    "write it in a larger unit" % show(word)
                )
        except ValueError:
            pass
    return (
        "the value of %s is not a number: write it as in JSON, such as 42, 0.42 or 1e-3, and its "
        "unit into the name" % show(word)
    )
