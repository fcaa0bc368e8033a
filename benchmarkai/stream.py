"""The records of stdin to the sink, each as soon as its line has come in."""

import errno
import os
import select
import sys

from benchmarkai._compat import text_types
from benchmarkai.errors import FifoError
from benchmarkai.metrics import lines
from benchmarkai.records import Records
from benchmarkai.waiting import POLLIN, wait_for

_BLOCK = 1 << 13  # bytes; larger ones take more memory, and are not faster


class Stopped(Exception):
    """The stream could not be read on, or its metrics could not be delivered.

    line: the number of the first line of which not everything was published.
    cause: the error.
    partly: whether something of that line was.
    """

    def __init__(self, line, cause, partly=False):
        super(Stopped, self).__init__(line, cause, partly)
        self.line = line
        self.cause = cause
        self.partly = partly


def publish_stream(sink, say):
    """Publish the records on stdin until it ends; return whether some were refused.

    say: called with a text for each record that is refused.

    Raises Stopped.
    """
    records = Records()
    refused = False
    block = True
    while block:
        try:
            block = _read(sys.stdin)
        except (EnvironmentError, ValueError) as error:
            code = getattr(error, "errno", None) or errno.EBADF
            cause = IOError(code, "cannot read stdin: " + os.strerror(code))
            raise Stopped(records.waiting_line(), cause)
        batch = _Batch(sink)
        for line, pairs, problem in records.feed(block) if block else records.end():
            if isinstance(pairs, text_types):
                batch.add_lines(line, pairs)
                continue
            if problem is None:
                try:
                    texts = lines(pairs, sink.longest)
                except (TypeError, ValueError) as error:
                    problem = str(error)
                else:
                    batch.add(line, texts)
                    continue
            refused = True
            say("line %d: %s" % (line, problem))
        batch.write()
    return refused


class _Batch(object):
    """Records that came in together and go out together, in writes that a pipe keeps whole."""

    def __init__(self, sink):
        self._sink = sink
        self._parts = []  # (line, text, whether each of its lines is a record)
        self._size = 0

    def add_lines(self, line, text):
        """Add records that are on consecutive lines, each of them one line of the text."""
        start = 0
        while start < len(text):
            end = text.rfind("\n", start, start + select.PIPE_BUF) + 1
            part = text[start:end]
            self._add(line, part, True)
            line += part.count("\n")
            start = end

    def add(self, line, texts):
        """Add one record."""
        if len(texts) == 1:
            self._add(line, texts[0], False)
            return
        self.write()
        self._deliver(texts, [(line, "".join(texts), False)])

    def _add(self, line, text, records):
        self._size += len(text)
        if self._size > select.PIPE_BUF:
            self.write()
            self._size = len(text)
        self._parts.append((line, text, records))

    def write(self):
        if self._parts:
            parts, self._parts, self._size = self._parts, [], 0
            self._deliver(["".join([part[1] for part in parts])], parts)

    def _deliver(self, texts, parts):
        try:
            self._sink.write(texts)
        except (EnvironmentError, FifoError) as error:
            written = getattr(error, "written", 0)
            for line, text, records in parts:
                if written < len(text):
                    break
                written -= len(text)
            if records:
                line += text.count("\n", 0, written)
                written -= text.rfind("\n", 0, written) + 1
            raise Stopped(line, error, partly=written > 0)


def _read(stream):
    """Return the next bytes of the stream as soon as there are some, and none at its end."""
    if stream is None:
        raise IOError(errno.EBADF, os.strerror(errno.EBADF))
    while True:
        try:
            return os.read(stream.fileno(), _BLOCK)
        except EnvironmentError as error:
            if error.errno == errno.EAGAIN:
                # Somebody who shares the terminal or the pipe has made it non-blocking.
                wait_for(POLLIN, stream)
            elif error.errno != errno.EINTR:
                raise
