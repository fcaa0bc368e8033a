"""The records on stdin to the sink, each as soon as its line has arrived."""

import errno
import os
import select
import sys

from benchmarkai.command.records import EncodedLines, Problem, RecordReader
from benchmarkai.errors import FifoError
from benchmarkai.metrics import encode
from benchmarkai.polling import POLLIN, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Sequence, Tuple, Union  # noqa: F401

    from benchmarkai.command.patterns import PatternReader  # noqa: F401
    from benchmarkai.settings import Sink  # noqa: F401

_BLOCK_SIZE = 1 << 13  # bytes; larger blocks take more memory, and are not faster


class StreamStopped(Exception):
    """The stream could not be read to its end, or its metrics could not be delivered.

    line: the number of the first line that was not published in full.
    cause: the error.
    partly: whether a part of that line was published.
    """

    def __init__(self, line, cause, partly=False):
        # type: (int, Exception, bool) -> None
        super(StreamStopped, self).__init__(line, cause, partly)
        self.line = line
        self.cause = cause
        self.partly = partly


def publish_stream(sink, report, reader=None):
    # type: (Sink, Callable[[str], None], Optional[Union[RecordReader, PatternReader]]) -> bool
    """Publish the records on stdin until it ends. Return whether any were rejected.

    report: called with a text for each record that is rejected.
    reader: finds the records; a RecordReader if it is None.

    Raises StreamStopped.
    """
    if reader is None:
        reader = RecordReader()
    rejected = False
    while True:
        try:
            block = _read(sys.stdin)
        except (EnvironmentError, ValueError) as error:
            code = getattr(error, "errno", None) or errno.EBADF
            cause = IOError(code, "cannot read stdin: " + os.strerror(code))
            raise StreamStopped(reader.first_open_line(), cause)
        batch = _Batch(sink)
        for found in reader.feed(block) if block else reader.end():
            if isinstance(found, EncodedLines):
                batch.add_encoded(found.line, found.text)
                continue
            if isinstance(found, Problem):
                problem = found
            else:
                try:
                    lines = encode(found.pairs, sink.max_line_size)
                except (TypeError, ValueError) as error:
                    problem = Problem(found.line, str(error))
                else:
                    batch.add(found.line, lines)
                    continue
            rejected = True
            report(problem.text())
        batch.write()
        if not block:
            return rejected


class _Batch(object):
    """Collects records that arrived together, for writes of at most PIPE_BUF bytes.

    Only a single record, on stdout, may be longer.
    """

    def __init__(self, sink):
        # type: (Sink) -> None
        self._sink = sink
        self._parts = []  # type: List[Tuple[int, str, bool]]
        self._size = 0

    def add_encoded(self, line, text):
        # type: (int, str) -> None
        """Add records on consecutive lines, each of them one line of the text."""
        start = 0
        while start < len(text):
            end = text.rfind("\n", start, start + select.PIPE_BUF) + 1
            part = text[start:end]
            self._add(line, part, True)
            line += part.count("\n")
            start = end

    def add(self, line, lines):
        # type: (int, List[str]) -> None
        """Add one record, encoded as one line or several."""
        if len(lines) == 1:
            self._add(line, lines[0], False)
            return
        self.write()
        self._deliver(lines, [(line, "".join(lines), False)])

    def _add(self, line, text, one_record_per_line):
        # type: (int, str, bool) -> None
        self._size += len(text)
        if self._size > select.PIPE_BUF:
            self.write()
            self._size = len(text)
        self._parts.append((line, text, one_record_per_line))

    def write(self):
        # type: () -> None
        if self._parts:
            parts, self._parts, self._size = self._parts, [], 0
            self._deliver(["".join([part[1] for part in parts])], parts)

    def _deliver(self, lines, parts):
        # type: (Sequence[str], List[Tuple[int, str, bool]]) -> None
        try:
            self._sink.write(lines)
        except (EnvironmentError, FifoError) as error:
            written = getattr(error, "written", 0)
            for line, text, one_record_per_line in parts:
                if written < len(text):
                    break
                written -= len(text)
            if one_record_per_line:
                line += text.count("\n", 0, written)
                written -= text.rfind("\n", 0, written) + 1
            raise StreamStopped(line, error, partly=written > 0)


def _read(stream):
    # type: (Any) -> bytes
    """Return the next bytes of the stream as soon as there are any, and none at its end."""
    if stream is None:
        raise IOError(errno.EBADF, os.strerror(errno.EBADF))
    while True:
        try:
            return os.read(stream.fileno(), _BLOCK_SIZE)
        except EnvironmentError as error:
            if error.errno == errno.EAGAIN:
                # Another program that shares the terminal or the pipe has made it non-blocking.
                wait_for(POLLIN, stream)
            elif error.errno != errno.EINTR:
                raise
