"""Many lines at once, at a fraction of the cost of one by one.

A line is a template and numbers: '{"loss": 0.42}' is '{"loss":*}' and 0.42. Programs print the same
few templates again and again. Each is parsed once, by the function that parses a line; of all
other lines with the same template, only the numbers are read.
"""

import json
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Sequence, Tuple, Union  # noqa: F401

    _Pairs = Sequence[Tuple[Any, Any]]

# It stands for each number in a template, because UTF-8 has no such byte. Lines that have it are
# bad, and stay bad with the other one, which UTF-8 does not have either.
PLACE = b"\xff"
_OTHER = b"\xfe"

# Numbers that are valid in JSON and in words, and finite. An integer is an int on Python 2 too: 18
# digits if that has 64 bits. Any other number stays in the template.
_NUMBER = r"(-?(?:0|[1-9][0-9]{0,%d})(?:\.[0-9]{1,30}|)(?:[eE][-+]?[0-9]{1,2}|))" % (
    len(str(sys.maxsize)) - 2
)
_NUMBER_OF_OBJECT = re.compile((r'": ?' + _NUMBER).encode("ascii"))
_NUMBER_OF_WORD = re.compile(("=" + _NUMBER).encode("ascii"))

# The number with which a template is parsed.
PROBE = "123456789012345678"

_MAX_LENGTH = 4096  # bytes of a template; a longer line is rare, and not much slower by itself

# Bytes of all templates together, with about what Python needs for each.
_MAX_SIZE = 1 << 19
_OVERHEAD = 256

# Bytes to split at once. More is one very long line, whose numbers would take much memory.
_MAX_DATA = 1 << 17

_decode = json.JSONDecoder().decode


def split(data):
    # type: (bytes) -> Tuple[List[bytes], List[bytes]]
    """Return the template of each line, and the numbers of all lines.

    data: whole lines. If there are objects and words, the numbers of the rarer stay in the
        templates, and so do all numbers of very long lines.
    """
    if len(data) > _MAX_DATA:
        return data[:-1].split(b"\n"), []
    data = data.replace(PLACE, _OTHER)
    if 2 * (b"\n" + data).count(b"\n{") >= data.count(b"\n"):
        parts, before = _NUMBER_OF_OBJECT.split(data), b'":'
    else:
        parts, before = _NUMBER_OF_WORD.split(data), b"="
    return (before + PLACE).join(parts[::2])[:-1].split(b"\n"), parts[1::2]


def parse_numbers(numbers):
    # type: (Sequence[bytes]) -> List[Union[int, float]]
    return _decode("[" + b",".join(numbers).decode("ascii") + "]")  # type: ignore[no-any-return]


class Templates(dict):  # type: ignore[type-arg]
    """What make() returns for each template, or None if its lines must be parsed one by one.

    parse: returns the (name, value) pairs of a line that is a record by itself.
    make: gets the pairs of a template, each with the number PROBE for its value.

    Where one of them raises TypeError or ValueError, lines must be parsed one by one too.
    """

    def __init__(self, parse, make):
        # type: (Callable[[bytes], _Pairs], Callable[[_Pairs], Any]) -> None
        super(Templates, self).__init__()
        self._parse = parse
        self._make = make
        self._size = 0

    def __missing__(self, template):
        # type: (bytes) -> Any
        if len(template) > _MAX_LENGTH:
            return None
        size = len(template) + _OVERHEAD
        if self._size + size > _MAX_SIZE:
            self.clear()
            self._size = 0
        self._size += size
        made = self[template] = self._parse_template(template)
        return made

    def _parse_template(self, template):
        # type: (bytes) -> Any
        probe = PROBE.encode("ascii")
        count = template.count(PLACE)
        if not count or probe in template:
            return None
        try:
            pairs = self._parse(template.replace(PLACE, probe))
            # Each value comes from a place, because nothing else in the template is that number.
            # With as many values as places, each place is a value, and none is part of a name.
            if [value for _, value in pairs] == [int(PROBE)] * count:
                return self._make(pairs)
        except (TypeError, ValueError):
            pass
        return None
