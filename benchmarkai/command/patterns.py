"""bai-emit --pattern: the numbers in what a benchmark prints, found by regular expressions."""

import re
import warnings

from benchmarkai._compat import PY2
from benchmarkai.command.lines import LineBuffer
from benchmarkai.command.records import Problem, Record
from benchmarkai.command.words import parse_number
from benchmarkai.errors import short_repr
from benchmarkai.jsonlines import MAX_RECORD_SIZE
from benchmarkai.metrics import check_unique

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence, Tuple, Union  # noqa: F401


class Pattern(object):
    """The regular expression that finds the values of a metric.

    text: NAME=REGEX. The value is group 1, the group named "value", or without a group the match.

    Raises ValueError for another text, or for a regular expression that re cannot compile.
    """

    def __init__(self, text):
        # type: (str) -> None
        self.name, equals, self.regex = text.partition("=")
        if not self.name or not self.regex:
            raise ValueError(
                "%s is not NAME=REGEX: write it like 'loss=loss: (\\S+)'" % short_repr(text)
            )
        try:
            with warnings.catch_warnings():  # of what a later Python will take otherwise
                warnings.simplefilter("ignore")
                compiled = re.compile(self.regex, re.UNICODE if PY2 else 0)
        except (re.error, ValueError, OverflowError, RuntimeError, AssertionError) as error:
            position = getattr(error, "pos", None)  # Python 3.5
            raise ValueError(
                "the regular expression of %s cannot be used: %s%s"
                % (
                    short_repr(self.name),
                    error,
                    "" if position is None else ", before %s" % short_repr(self.regex[position:]),
                )
            )
        self._search = compiled.search
        self._group = "value" if "value" in compiled.groupindex else min(compiled.groups, 1)

    def find(self, text):
        # type: (str) -> Optional[str]
        """Return the value in the text, which may be empty, or None if nothing matches."""
        match = self._search(text)
        return None if match is None else match.group(self._group) or ""


class PatternReader(object):
    """Finds metrics in a stream of text that arrives in blocks.

    feed() and end() return a list of Record and Problem, in the order of the stream. Each line
    with a match is a record. A carriage return ends a line too, because progress bars print them,
    but only newlines are counted.
    """

    def __init__(self, patterns):
        # type: (Sequence[Pattern]) -> None
        self.line = 1
        self._patterns = patterns
        self._unmatched = list(patterns)
        self._buffer = LineBuffer((b"\n", b"\r"))
        self._after_return = False  # a newline that follows belongs to it

    def first_open_line(self):
        # type: () -> int
        """Return the number of the first line that has not been searched."""
        return self.line

    def feed(self, block):
        # type: (bytes) -> List[Union[Record, Problem]]
        """Return what is found in the lines that end in this block of bytes."""
        return self._search(self._buffer.feed(block))

    def end(self):
        # type: () -> List[Union[Record, Problem]]
        """Return what is found in the last line, and a Problem for each pattern without a match."""
        return self._search(self._buffer.end()) + [
            Problem(
                None,
                "the pattern of %s has matched no line: check %s against the text"
                % (short_repr(pattern.name), short_repr(pattern.regex)),
            )
            for pattern in self._unmatched
        ]

    def _search(self, lines):
        # type: (bytes) -> List[Union[Record, Problem]]
        found = []  # type: List[Union[Record, Problem]]
        for line in lines.splitlines(True):
            if line != b"\n" or not self._after_return:
                try:
                    pairs = self._search_line(line)
                    if pairs:
                        found.append(Record(self.line, pairs))
                except ValueError as error:
                    found.append(Problem(self.line, str(error)))
            self.line += line.endswith(b"\n")
            self._after_return = line.endswith(b"\r")
        return found

    def _search_line(self, line):
        # type: (bytes) -> List[Tuple[str, Union[int, float]]]
        if len(line.rstrip(b"\r\n")) > MAX_RECORD_SIZE:
            raise ValueError("a line of more than %d bytes is not searched" % MAX_RECORD_SIZE)
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        pairs = []
        for pattern in self._patterns:
            value = pattern.find(text)
            if value is not None:
                if pattern in self._unmatched:
                    self._unmatched.remove(pattern)
                try:
                    number = parse_number(value, pattern.name + "=" + value)
                except ValueError as error:
                    raise ValueError("%s, or let the pattern match the number alone" % error)
                pairs.append((pattern.name, number))
        check_unique(pairs)
        return pairs
