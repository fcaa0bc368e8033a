"""JSON text into names and numbers, and the limits of a record. Pure functions."""

import json
import re

from benchmarkai.errors import short_repr
from benchmarkai.metrics import MAX_DIGITS, check_unique

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Tuple  # noqa: F401

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
