"""The bytes of a stream into records: names and numbers, or the problem with them."""

import re
from collections import namedtuple

from benchmarkai._compat import decode_utf8
from benchmarkai.command import fastpath
from benchmarkai.command.lines import LineBuffer
from benchmarkai.command.words import parse_words
from benchmarkai.errors import short_repr
from benchmarkai.jsonlines import MAX_RECORD_SIZE, parse_object
from benchmarkai.templates import PLACE, Templates, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union  # noqa: F401

    _Found = Union["EncodedLines", "Record", "Problem"]

_TOO_LONG = "the record is longer than %d bytes: split it" % MAX_RECORD_SIZE
_BOM = b"\xef\xbb\xbf".decode("utf-8")  # files that were joined may have it in the middle
_BRACKET = re.compile(r"[][{}]")


class EncodedLines(namedtuple("EncodedLines", "line text")):
    """Lines that are published as they stand, each of them a record.

    line: the number of the first of them in the stream.
    text: the lines, each with its newline.
    """

    __slots__ = ()


class Record(namedtuple("Record", "line pairs")):
    """The (name, value) pairs of a record, and the number of the line where it starts."""

    __slots__ = ()


class Problem(namedtuple("Problem", "line message")):
    """Why a record is rejected, and the number of the line where it starts.

    The line is None for a problem of the stream as a whole.
    """

    __slots__ = ()

    def text(self):
        # type: () -> str
        if self.line is None:
            return self.message  # type: ignore[no-any-return]
        return "line %d: %s" % (self.line, self.message)


class RecordReader(object):
    """Finds the records in a stream that arrives in blocks.

    A record is a JSON object, on one line or on several, or a line of NAME=VALUE words. feed()
    and end() return a list of EncodedLines, Record and Problem, in the order of the stream.

    Metrics are flat, so a line that starts with "{" where JSON allows no object, or that is a line
    of words, cannot be part of an object: if one arrives inside of an object, that object was not
    closed. Where JSON allows an object, it is nested if the outer one is closed later; otherwise
    it is a record.
    """

    def __init__(self):
        # type: () -> None
        self.line = 1  # the number of the next line
        self._buffer = LineBuffer()
        self._object = None  # type: Optional[_PartialObject]

    def first_open_line(self):
        # type: () -> int
        """Return the number of the first line that no record has taken so far."""
        return self.line if self._object is None else self._object.line

    def feed(self, block):
        # type: (bytes) -> List[_Found]
        """Return the records that end in this block of bytes."""
        lines = self._buffer.feed(block)
        return self._parse_lines(lines) if lines else []

    def end(self):
        # type: () -> List[_Found]
        """Return the records that end with the stream."""
        lines = self._buffer.end()
        found = self._parse_lines(lines) if lines else []
        return found + self._reject_open_objects()

    def _parse_lines(self, lines):
        # type: (bytes) -> List[_Found]
        if b"\r" in lines:
            lines = lines.replace(b"\r\n", b"\n")
        if self._object is None:
            text = fastpath.encode_lines(lines)
            if text is not None:
                found = EncodedLines(self.line, text)
                self.line += text.count("\n")
                return [found]
        return self._parse_by_templates(lines)

    def _parse_by_templates(self, data):
        # type: (bytes) -> List[_Found]
        """Return what is in runs of lines with known templates, and in the lines between them."""
        templates, numbers = split(data)
        formats = _formats.of_each(templates)
        formats.append(None)  # the end of the last run
        lines = []  # type: List[bytes]
        found = []  # type: List[_Found]
        start = used = 0  # the lines and the numbers that have been parsed
        while start < len(templates):
            end = formats.index(None, start)
            if end > start and self._object is None:
                count = b"".join(templates[start:end]).count(PLACE)
                text = fastpath.format_lines(formats[start:end], numbers[used : used + count])
                found.append(EncodedLines(self.line, text))
            else:
                end = start + 1
                count = templates[start].count(PLACE)
                lines = lines or data.split(b"\n")
                found += self._parse_line(lines[start])
            self.line += end - start
            start = end
            used += count
        return found

    def _parse_line(self, line):
        # type: (bytes) -> List[_Found]
        if len(line) > MAX_RECORD_SIZE:
            return self._reject_long_line(line)
        bad_byte = None
        try:
            text = decode_utf8(line)
        except UnicodeDecodeError as error:
            text = line.decode("utf-8", "replace")
            bad_byte = error.start + 1
        if text[:1] == _BOM:
            text = text[1:]
        return self._parse_text(text.strip(" \t"), bad_byte)

    def _parse_text(self, text, bad_byte, may_nest=True):
        # type: (str, Optional[int], bool) -> List[_Found]
        if text[:1] == "{":
            found = []  # type: List[_Found]
            while self._object and not (may_nest and self._object.expects_value()):
                found += self._reject(self._object)
            if self._object:
                self._object.start_nested()
            else:
                self._object = _PartialObject(self.line)
            return found + self._continue_object(self._object, text, bad_byte)
        if self._object is None:
            if bad_byte is not None:
                return [Problem(self.line, _not_utf8(text, bad_byte))]
            return [_parse(self.line, _parse_line_of_words, text)] if text else []
        if "=" in text and bad_byte is None:
            record = _parse(self.line, _parse_line_of_words, text)
            if isinstance(record, Record):
                return self._reject_open_objects() + [record]
        return self._continue_object(self._object, text, bad_byte)

    def _continue_object(self, partial, text, bad_byte):
        # type: (_PartialObject, str, Optional[int]) -> List[_Found]
        partial.add(text, bad_byte)
        if partial.is_open():
            return []
        self._object = None
        return [_parse(partial.line, partial.parse)]

    def _reject_open_objects(self):
        # type: () -> List[_Found]
        found = []  # type: List[_Found]
        while self._object:
            found += self._reject(self._object)
        return found

    def _reject(self, partial):
        # type: (_PartialObject) -> List[_Found]
        """Reject the open object. What seemed to be nested in it is a record after all."""
        self._object = None
        if partial.problem is None:
            start = short_repr(partial.lines[0][:80])
            partial.problem = 'the object that starts with %s is not closed: end it with "}"' % (
                start
            )
        found = [_parse(partial.line, partial.parse)]  # type: List[_Found]
        if partial.nested is not None:
            line = self.line
            for index in range(partial.nested, len(partial.lines)):
                self.line = partial.line + index
                text, bad_byte = partial.lines[index], partial.bad_bytes.get(index)
                found += self._parse_text(text, bad_byte, may_nest=False)
            self.line = line
        return found

    def _reject_long_line(self, line):
        # type: (Union[bytes, bytearray]) -> List[_Found]
        if self._object is None or line[:16].lstrip()[:1] == b"{":
            return self._reject_open_objects() + [Problem(self.line, _TOO_LONG)]
        self._object.reject_as_too_long()
        return []


class _PartialObject(object):
    """A JSON object whose lines arrive one by one."""

    def __init__(self, line):
        # type: (int) -> None
        self.line = line
        self.lines = []  # type: List[str]
        self.size = 0
        self._open = []  # type: List[str]  # brackets
        self._end = ""  # the last line that is not blank, with a quote for each string
        self.nested = None  # type: Optional[int]  # the line where a nested object may start
        self.bad_bytes = {}  # type: Dict[int, int]  # by line
        self.problem = None  # type: Optional[str]

    def add(self, text, bad_byte):
        # type: (str, Optional[int]) -> None
        # Without escapes, every second part between quotes is outside of the strings.
        parts = text.replace("\\\\", "").replace('\\"', "").split('"')
        unquoted = '"'.join(parts[::2])
        if "{" in unquoted or "}" in unquoted or "[" in unquoted or "]" in unquoted:
            self._follow(unquoted)
        if len(parts) % 2 == 0 and text.endswith("}"):
            self._open = []  # a string is not closed, but the line ends like an object
        if text:
            self._end = unquoted
        if self.problem is _TOO_LONG:
            return
        if bad_byte is not None:
            self.problem = self.problem or _not_utf8(text, bad_byte)
            self.bad_bytes[len(self.lines)] = bad_byte
        self.lines.append(text)
        self.size += len(text) + 1
        if self.size > MAX_RECORD_SIZE + 1:
            self.reject_as_too_long()

    def _follow(self, unquoted):
        # type: (str) -> None
        for bracket in _BRACKET.findall(unquoted):
            if bracket in "{[":
                if len(self._open) < MAX_RECORD_SIZE:
                    self._open.append(bracket)
            elif bracket == "}":
                while self._open and self._open.pop() != "{":
                    pass
            elif self._open[-1:] == ["["]:
                self._open.pop()

    def is_open(self):
        # type: () -> bool
        return bool(self._open)

    def expects_value(self):
        # type: () -> bool
        """Return whether JSON allows an object next."""
        last = self._end.rstrip()[-1:]
        return last in (":", "[") or (last == "," and self._open[-1:] == ["["])

    def start_nested(self):
        # type: () -> None
        if self.nested is None and self.problem is not _TOO_LONG:
            self.nested = len(self.lines)

    def reject_as_too_long(self):
        # type: () -> None
        self.problem = _TOO_LONG
        self.lines, self.bad_bytes, self.nested = [], {}, None

    def parse(self):
        # type: () -> Sequence[Tuple[Any, Any]]
        if self.problem:
            raise ValueError(self.problem)
        return parse_object("\n".join(self.lines))


def _not_utf8(text, bad_byte):
    # type: (str, int) -> str
    return "%s is not UTF-8 (byte %d): write it in UTF-8" % (short_repr(text), bad_byte)


def _parse(line, parse, *arguments):
    # type: (int, Callable[..., Sequence[Tuple[Any, Any]]], *Any) -> Union[Record, Problem]
    try:
        return Record(line, parse(*arguments))
    except ValueError as error:
        # Only its text: the traceback of the error would keep the record alive.
        return Problem(line, str(error))


def _parse_line_of_words(text):
    # type: (str) -> Sequence[Tuple[Any, Any]]
    return parse_words([word for word in re.split("[\t\r ]", text) if word])


def _parse_alone(line):
    # type: (bytes) -> Sequence[Tuple[Any, Any]]
    """Return the pairs of a line that is a record by itself, or none."""
    pairs = []  # type: Sequence[Tuple[Any, Any]]
    for found in RecordReader()._parse_line(line):
        if isinstance(found, Record):
            pairs = found.pairs
    return pairs


_formats = Templates(_parse_alone, fastpath.make_format)
