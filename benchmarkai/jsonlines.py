"""JSON text into names and numbers, and the limits of a record. Pure functions."""

import json
import re

from benchmarkai._compat import decode_utf8
from benchmarkai.errors import short_repr
from benchmarkai.metrics import MAX_DIGITS, check_unique

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence, Tuple  # noqa: F401

MAX_RECORD_SIZE = 1 << 20  # bytes

_LONG_INTEGER = re.compile(r"(?<![0-9])[0-9]{%d}" % (MAX_DIGITS + 1))

# A tuple of (name, value) keeps a name that is given twice; a dict would drop one of them.
_decode = json.JSONDecoder(object_pairs_hook=tuple).decode


def parse_object(text):
    # type: (str) -> Tuple[Tuple[Any, Any], ...]
    """Return the (name, value) pairs of a JSON object.

    Raises ValueError unless the text is one JSON object, flat, with each name once.
    """
    if len(text) > MAX_DIGITS and _LONG_INTEGER.search(text):
        raise ValueError(
            "a number has more than %d digits: write it shorter, such as 1e100" % MAX_DIGITS
        )
    try:
        pairs = _decode(text)
    except ValueError as error:
        raise ValueError("%s is not one JSON object: %s" % (short_repr(text[:80]), error))
    except RuntimeError:
        raise ValueError("%s is nested too deep: metrics are flat" % short_repr(text[:80]))
    if not isinstance(pairs, tuple):
        raise ValueError("%s is not a JSON object" % short_repr(text[:80]))
    for name, value in pairs:
        if isinstance(value, (list, tuple)):
            raise ValueError(
                "the value of %s is a nested %s: metrics are flat, so write each number under a "
                "name of its own" % (short_repr(name), "array" if type(value) is list else "object")
            )
    check_unique(pairs)
    return pairs


def parse_objects(data):
    # type: (bytes) -> Optional[List[Sequence[Tuple[Any, Any]]]]
    """Return what parse_object() returns for each line, or None if it must decide by itself.

    data: whole lines. If each of them is one flat object, one call of the decoder reads them
    all. No object can reach across the joint ",\\n" between a "}" and a "{": a string cannot
    contain a newline, and only an array, which needs a "[", continues with an object after a
    comma.
    """
    count = data.count(b"\n")
    if (
        len(data) > MAX_RECORD_SIZE
        or data[:1] != b"{"
        or data[-2:] != b"}\n"
        or data.count(b"}\n{") != count - 1
        or data.count(b"{") != count
        or b"[" in data
    ):
        return None
    try:
        text = decode_utf8(data)
        longest_line = max(map(len, text.split("\n")))
        if longest_line > MAX_DIGITS and _LONG_INTEGER.search(text):
            return None
        objects = _decode("[" + text[:-1].replace("}\n{", "},\n{") + "]")
        for pairs in objects:
            if len(pairs) > 1:
                check_unique(pairs)
    except (ValueError, RuntimeError):  # one of them is bad: parse_object() finds out which
        return None
    return objects if len(objects) == count else None
