"""The sink of stdout mode, and how text gets into a standard stream whole."""

import errno
import os
import sys

# Those in which ASCII text is the same bytes.
_ASCII_FIRST = (
    "utf-8",
    "ascii",
    "us-ascii",
    "ansi_x3.4-1968",
    "iso-8859-1",
    "iso8859-1",
    "latin-1",
)


class Stdout(object):
    """Writes lines to whatever sys.stdout is at the time."""

    longest = None

    def __init__(self):
        self._known = False
        self._stream = None
        self._descriptor = None

    def write(self, lines):
        """Write each of the lines (text of ASCII) at once, after what the program has printed.

        Raises OSError (IOError on Python 2) when stdout is closed, full or has no reader. Its
        attribute `written` is the number of bytes that had gone out.
        """
        stream = sys.stdout
        written = 0
        try:
            if stream is not self._stream or not self._known:
                self._descriptor = descriptor_of(stream)
                self._stream = stream
                self._known = True
            for line in lines:
                if self._descriptor is None:
                    stream.write(line)
                    stream.flush()
                else:
                    _flush(stream)
                    write_all(self._descriptor, line.encode("ascii"))
                written += len(line)
            return
        except (EnvironmentError, ValueError) as error:
            if isinstance(error, ValueError) and not getattr(stream, "closed", False):
                raise
            code = getattr(error, "errno", None) or errno.EBADF
            written += getattr(error, "written", 0)
        # Not in the except clause: what is raised there comes with a second traceback.
        failure = IOError(code, "cannot write to stdout: %s" % os.strerror(code))
        failure.written = written
        raise failure


def descriptor_of(stream):
    """Return the descriptor to which ASCII text for this stream can be written as bytes.

    None for a stream that is no plain file, such as the capture of a test, a notebook or a
    compressed file: it must be written through its own methods. A file is better written
    without them: what failed does not stay in a buffer to come out later, and nothing is lost
    where the stream overlooks that a part only was written (python -u) or that a signal came
    (Python 2).

    Raises OSError (IOError on Python 2) for a stream that is closed.
    """
    if stream is None or getattr(stream, "closed", False):
        raise IOError(errno.EBADF, os.strerror(errno.EBADF))
    if not _is_plain_file(stream):
        return None
    try:
        return stream.fileno()
    except (EnvironmentError, ValueError):  # detached
        return None


def _is_plain_file(stream):
    # By their names, because Python 2 would have to import io for the types.
    kind = "%s.%s" % (type(stream).__module__, type(stream).__name__)
    if kind != "_io.TextIOWrapper":
        return kind == "__builtin__.file"
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return type(raw).__name__ == "FileIO" and stream.encoding.lower() in _ASCII_FIRST


def _flush(stream):
    while True:
        try:
            return stream.flush()
        except EnvironmentError as error:
            _wait_or_raise(error, stream)


def write_all(descriptor, data):
    """Write all the bytes in as few calls of write() as can be, which is nearly always one.

    Raises OSError; its attribute `written` is the number of bytes that had gone out.
    """
    total = len(data)
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except EnvironmentError as error:
            error.written = total - len(data)
            _wait_or_raise(error, descriptor)


def _wait_or_raise(error, writable):
    """Return when it is worth another try."""
    if error.errno == errno.EAGAIN:
        # Somebody who shares the terminal or the pipe has made it non-blocking.
        from benchmarkai.waiting import POLLOUT, wait_for

        wait_for(POLLOUT, writable)
    elif error.errno != errno.EINTR:
        raise error
