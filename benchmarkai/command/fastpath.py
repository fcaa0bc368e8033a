"""Many lines of a stream at once, at a fraction of the cost of one by one.

The contract of each function: it returns exactly what the slow path gives for each line
(records.py parses it, metrics.encode() writes it), or None, which leaves all of them to the slow
path. It never rejects anything.
"""

import re

from benchmarkai._compat import decode_utf8
from benchmarkai.jsonlines import parse_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence, Tuple, Union  # noqa: F401

# One metric on a line, whose name and number encode() would write in the same way. If a number has
# up to 15 significant digits its form alone proves that, because a double keeps them; a longer one
# must be compared with the repr() of its value. The lines are short enough for any pipe (POSIX:
# 512 bytes).
_NAME = r"[%s][%s]{0,199}"
_NUMBER = (
    r"(?:-?(?!0\.0000)(?:0|[1-9][0-9]{0,15})\.(?:[0-9]{0,20}[1-9]|0)"
    r"|0|-?[1-9][0-9]{0,199}"
    r"|-?[1-9](?:\.[0-9]{0,20}[1-9])?e(?:-0[5-9]|-[1-9][0-9]|\+1[6-9]|\+[2-9][0-9]))"
)
_OBJECT_NAME = _NAME % ((r" !#-\[\]-~",) * 2)
_WORD_NAME = _NAME % (r"!#-<>-\[\]-z|}~", r"!#-<>-\[\]-~")
_ENCODED_OBJECTS = re.compile(r'(?:\{"%s": %s\}\n)+\Z' % (_OBJECT_NAME, _NUMBER))
_ENCODED_WORDS = re.compile(r"(?:%s=%s\n)+\Z" % (_WORD_NAME, _NUMBER))
_LONG_NUMBER_OF_OBJECT = re.compile(r'": (.{17,})\}')
_LONG_NUMBER_OF_WORD = re.compile(r"=(.{17,})")

# One word on a line, with a number in its plainest form.
_PLAIN_WORD = re.compile(r"^(?!\{)(\S+)=(-?(?:0|[1-9][0-9]{0,17})(\.[0-9]{1,30})?)$", re.M | re.U)
_BOM = b"\xef\xbb\xbf"


def encode_lines(data):
    # type: (bytes) -> Optional[str]
    """Return the lines that encode() would write, if each line is one metric in the same form.

    That is a JSON object as encode() writes it, or a word with the same name and number.
    """
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return None
    if _ENCODED_WORDS.match(text):
        long_numbers = _LONG_NUMBER_OF_WORD.findall(text)
        text = '{"' + text[:-1].replace("=", '": ').replace("\n", '}\n{"') + "}\n"
    elif _ENCODED_OBJECTS.match(text):
        long_numbers = _LONG_NUMBER_OF_OBJECT.findall(text)
    else:
        return None
    return text if list(map(repr, map(float, long_numbers))) == long_numbers else None


def parse_lines(data):
    # type: (bytes) -> Optional[Sequence[Sequence[Tuple[Any, Any]]]]
    """Return the (name, value) pairs of each line if they are all objects, or all plain words."""
    if _BOM in data:
        return None
    return parse_objects(data) if data[:1] == b"{" else _parse_plain_words(data)


def _parse_plain_words(data):
    # type: (bytes) -> Optional[List[Tuple[Tuple[str, Union[int, float]]]]]
    try:
        words = _PLAIN_WORD.findall(decode_utf8(data))
    except UnicodeDecodeError:
        return None
    if len(words) != data.count(b"\n"):
        return None
    return [
        ((name, float(number) if fraction else int(number)),) for name, number, fraction in words
    ]
