"""The records of stdin to the sink, each as soon as its line has come in."""

import errno
import os
import select
import sys

from benchmarkai.errors import FifoError
from benchmarkai.metrics import lines
from benchmarkai.records import Records

_BLOCK = 1 << 13  # bytes; larger ones take more memory, and are not faster


class Stopped(Exception):
    """The stream could not be read on, or its metrics could not be delivered.

    line: the number of the first line of which nothing, or not everything, was published.
    cause: the error.
    """

    def __init__(self, line, cause):
        super(Stopped, self).__init__(line, cause)
        self.line = line
        self.cause = cause


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
            raise Stopped(records.line, IOError(code, "cannot read stdin: " + os.strerror(code)))
        batch = _Batch(sink)
        for line, pairs, problem in records.feed(block) if block else records.end():
            if problem is None:
                try:
                    batch.add(line, lines(pairs, sink.longest))
                except (TypeError, ValueError) as error:
                    problem = error
            if problem is not None:
                refused = True
                say("line %d: %s" % (line, problem))
        batch.write()
    return refused


class _Batch(object):
    """Records that came in together and go out together, in writes that a pipe keeps whole."""

    def __init__(self, sink):
        self._sink = sink
        self._records = []  # (line, text)
        self._size = 0

    def add(self, line, texts):
        self._size += len(texts[0])
        if self._size > select.PIPE_BUF or len(texts) > 1:
            self.write()
            self._size = len(texts[0])
        self._records.append((line, texts[0]))
        if len(texts) > 1:
            self._write(texts)

    def write(self):
        if self._records:
            self._write(["".join([text for _, text in self._records])])

    def _write(self, texts):
        records, self._records, self._size = self._records, [], 0
        try:
            self._sink.write(texts)
        except (EnvironmentError, FifoError) as error:
            written = getattr(error, "written", 0)
            for line, text in records:
                written -= len(text)
                if written < 0:
                    break
            raise Stopped(line, error)


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
                _wait_until_readable(stream)
            elif error.errno != errno.EINTR:
                raise


def _wait_until_readable(stream):
    try:
        select.select([stream], [], [])
    except (EnvironmentError, select.error) as error:
        if error.args[0] != errno.EINTR:
            raise
