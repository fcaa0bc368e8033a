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
        self._stream = self  # no stream yet; None is a stdout that is closed
        self._descriptor = None

    def write(self, lines):
        """Write each of the lines (text of ASCII) at once, after what the program has printed.

        Raises OSError (IOError on Python 2) when stdout is closed, full or has no reader. Its
        attribute `written` is the number of bytes that had gone out.
        """
        stream = sys.stdout
        written = 0
        try:
            if stream is not self._stream:
                self._descriptor = descriptor_of(stream)
                self._stream = stream
            for line in lines:
                if self._descriptor is None:
                    stream.write(line)
                    stream.flush()
                else:
                    stream.flush()
                    write_all(self._descriptor, line.encode("ascii"))
                written += len(line)
            return
        except (EnvironmentError, ValueError) as error:
            if isinstance(error, ValueError) and not getattr(stream, "closed", False):
                raise
            code = getattr(error, "errno", None) or errno.EBADF
            written += getattr(error, "written", 0)
        failure = IOError(code, "cannot write to stdout: %s" % os.strerror(code))
        failure.written = written
        raise failure


def descriptor_of(stream):
    """Return the descriptor to which ASCII text for this stream can be written as bytes.

    None for a stream that is no plain file, such as the capture of a test or a notebook: it
    must be written through its own methods. A file is better written without them: what
    failed does not stay in a buffer to come out later, and nothing is lost where the stream
    overlooks that a part only was written (python -u) or that a signal came (Python 2).

    Raises OSError (IOError on Python 2) for a stream that is closed.
    """
    if stream is None or getattr(stream, "closed", False):
        raise IOError(errno.EBADF, os.strerror(errno.EBADF))
    kind = type(stream)
    # By name, because Python 2 would have to import io for the class.
    if (kind.__module__, kind.__name__) not in (("_io", "TextIOWrapper"), ("__builtin__", "file")):
        return None
    if kind.__module__ == "_io" and stream.encoding.lower() not in _ASCII_FIRST:
        return None
    try:
        return stream.fileno()
    except (EnvironmentError, ValueError):  # a file in memory
        return None


def write_all(descriptor, data):
    """Write all the bytes in as few calls of write() as can be, which is nearly always one.

    Raises OSError; its attribute `written` is the number of bytes that had gone out.
    """
    total = len(data)
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except EnvironmentError as error:
            if error.errno == errno.EAGAIN:
                # Somebody who shares the terminal or the pipe has made it non-blocking.
                _wait_until_writable(descriptor)
            elif error.errno != errno.EINTR:
                error.written = total - len(data)
                raise


def _wait_until_writable(descriptor):
    import select

    try:
        select.select([], [descriptor], [])
    except (EnvironmentError, select.error) as error:
        if error.args[0] != errno.EINTR:
            raise
