"""Many lines at once, at a fraction of the cost of one by one.

A line is a template and numbers: '{"loss": 0.42}' is '{"loss":*}' and 0.42. Programs print the same
few templates again and again. Each is parsed once, as the line that it is with a number in each
place; of all other lines with the same template, only the numbers are read.
"""

import json
import re
import sys

from benchmarkai.jsonlines import parse_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Sequence, Set, Tuple, Union  # noqa: F401

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
_PROBE = PROBE.encode("ascii")

# Bytes of all templates together, with about what Python needs for each.
_MAX_SIZE = 1 << 20
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

    def of_each(self, templates):
        # type: (Sequence[bytes]) -> List[Any]
        try:
            return list(map(self.__getitem__, templates))
        except KeyError:
            self._add(set(templates))
            return list(map(self.get, templates))

    def _add(self, templates):
        # type: (Set[bytes]) -> None
        """Add those that are new, as many as there is room for."""
        new = [template for template in templates if template not in self]
        if self._size + _size_of(new) > _MAX_SIZE:
            self.clear()
            self._size = 0
            new = list(templates)
        while _size_of(new) > _MAX_SIZE:
            del new[len(new) // 2 :]
        self._size += _size_of(new)
        for template, pairs in zip(new, self._parse_each(new)):
            self[template] = self._make_of(template, pairs)

    def _parse_each(self, templates):
        # type: (Sequence[bytes]) -> Sequence[Optional[_Pairs]]
        data = b"".join([template + b"\n" for template in templates]).replace(PLACE, _PROBE)
        # With a backslash in the data, a name may contain a lone surrogate.
        if b"\\" not in data:
            objects = parse_objects(data)
            if objects is not None:
                return objects
        return list(map(self._parse_line, data[:-1].split(b"\n")))

    def _parse_line(self, line):
        # type: (bytes) -> Optional[_Pairs]
        try:
            return self._parse(line)
        except (TypeError, ValueError):
            return None

    def _make_of(self, template, pairs):
        # type: (bytes, Optional[_Pairs]) -> Any
        # Each value comes from a place, if nothing else in the template is that number. With as
        # many values as places, each place is a value, and none is part of a name.
        places = template.count(PLACE)
        if not places or pairs is None or _PROBE in template:
            return None
        if [value for _, value in pairs] != [int(PROBE)] * places:
            return None
        try:
            return self._make(pairs)
        except (TypeError, ValueError):
            return None


def _size_of(templates):
    # type: (Sequence[bytes]) -> int
    return sum(map(len, templates)) + _OVERHEAD * len(templates)
