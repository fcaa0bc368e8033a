"""Lines of a stream into the lines that encode() writes, many at once.

Each function returns exactly what the slow path gives for each line (records.py parses it,
metrics.encode() writes it), or None, which leaves all of it to the slow path. None rejects
anything.
"""

import re
import select

from benchmarkai.metrics import encode
from benchmarkai.templates import PROBE, parse_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence, Tuple  # noqa: F401

# One metric on a line, whose name and number encode() would write in the same way. If a number has
# up to 15 significant digits its form alone proves that, because a double keeps them; a longer one
# is written again. The lines are short enough for any pipe (POSIX: 512 bytes).
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
_ENCODED_NUMBERS = re.compile("%s(?:,%s)*\\Z" % (_NUMBER, _NUMBER))
_MIN_LONG_LENGTH = 17  # of a number with more than 15 digits
_LONG_NUMBER_OF_OBJECT = re.compile(r'": (.{%d,})\}' % _MIN_LONG_LENGTH)
_LONG_NUMBER_OF_WORD = re.compile(r"=(.{%d,})" % _MIN_LONG_LENGTH)

_MAX_NUMBER_LENGTH = 24  # of the repr() of a float, such as -1.2345678901234567e-100


def encode_lines(data):
    # type: (bytes) -> Optional[str]
    """Return the lines that encode() would write, if each line is one metric in nearly that form.

    That is a JSON object as encode() writes it, or a word with the same name and number; only a
    long number may be different.
    """
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return None
    if _ENCODED_WORDS.match(text):
        numbers = _LONG_NUMBER_OF_WORD.findall(text)
        text = '{"' + text[:-1].replace("=", '": ').replace("\n", '}\n{"') + "}\n"
    elif _ENCODED_OBJECTS.match(text):
        numbers = _LONG_NUMBER_OF_OBJECT.findall(text)
    else:
        return None
    exact = list(map(_write_again, numbers))
    if exact == numbers:
        return text
    parts = _LONG_NUMBER_OF_OBJECT.split(text)
    parts[1::2] = ['": ' + number + "}" for number in exact]
    return "".join(parts)


def _write_again(number):
    # type: (str) -> str
    return repr(float(number)) if "." in number or "e" in number else number


def make_format(pairs):
    # type: (Sequence[Tuple[Any, Any]]) -> Optional[str]
    """Return the line that encode() would write for the pairs, with %s in place of each number.

    None if it might not fit into a pipe, where it takes several lines.
    """
    (line,) = encode(pairs)
    if len(line) + _MAX_NUMBER_LENGTH * len(pairs) > select.PIPE_BUF:
        return None
    return line.replace("%", "%%").replace(PROBE, "%s")


def format_lines(formats, numbers):
    # type: (Sequence[str], Sequence[bytes]) -> str
    """Return lines with their numbers as encode() would write them."""
    text = b",".join(numbers).decode("ascii")
    if _ENCODED_NUMBERS.match(text):
        texts = [
            number if len(number) < _MIN_LONG_LENGTH else _write_again(number)
            for number in text.split(",")
        ]
    else:
        texts = list(map(repr, parse_numbers(numbers)))
    return "".join(formats) % tuple(texts)
