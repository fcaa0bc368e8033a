"""The sink of stdout mode, and how text reaches the standard streams whole."""

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence  # noqa: F401

# The encodings that leave ASCII as it is.
_ASCII_COMPATIBLE = (
    "utf-8",
    "ascii",
    "us-ascii",
    "ansi_x3.4-1968",
    "iso-8859-1",
    "iso8859-1",
    "latin-1",
)


class StdoutSink(object):
    """Writes lines to the sys.stdout of the moment."""

    max_line_size = None  # type: Optional[int]

    def __init__(self):
        # type: () -> None
        self._known = False
        self._stream = None  # type: Any
        self._descriptor = None  # type: Optional[int]

    def write(self, lines):
        # type: (Sequence[str]) -> None
        """Write and flush each line (ASCII), after everything that the program has printed.

        Raises OSError (IOError on Python 2) if stdout is closed, full, or has no reader. Its
        attribute `written` is the number of bytes that had been written.
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
        # Raised here because inside of the except clause it would carry a second traceback.
        failure = IOError(code, "cannot write to stdout: %s" % os.strerror(code))
        failure.written = written  # type: ignore[attr-defined]
        raise failure


def descriptor_of(stream):
    # type: (Any) -> Optional[int]
    """Return the descriptor to which ASCII text for this stream can be written directly.

    None means that the text must go through the methods of the stream: it is a test's capture,
    a notebook, a compressed file. For a plain file the descriptor is the better way: a failed
    write leaves nothing in a buffer to come out later, and nothing is lost where the stream
    ignores a short write (python -u) or a signal (Python 2).

    Raises OSError (IOError on Python 2) if the stream is closed.
    """
    if stream is None or getattr(stream, "closed", False):
        raise IOError(errno.EBADF, os.strerror(errno.EBADF))
    if not _is_plain_file(stream):
        return None
    try:
        return stream.fileno()  # type: ignore[no-any-return]
    except (EnvironmentError, ValueError):  # detached
        return None


def _is_plain_file(stream):
    # type: (Any) -> bool
    # Compared by name, because Python 2 would have to import io for the types.
    kind = "%s.%s" % (type(stream).__module__, type(stream).__name__)
    if kind != "_io.TextIOWrapper":
        return kind == "__builtin__.file"
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return type(raw).__name__ == "FileIO" and stream.encoding.lower() in _ASCII_COMPATIBLE


def _flush(stream):
    # type: (Any) -> None
    while True:
        try:
            return stream.flush()  # type: ignore[no-any-return]
        except EnvironmentError as error:
            _wait_or_raise(error, stream)


def write_all(descriptor, data):
    # type: (int, bytes) -> None
    """Write all the bytes, with one call of write() where the system accepts them at once.

    Raises OSError. Its attribute `written` is the number of bytes that had been written.
    """
    total = len(data)
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except EnvironmentError as error:
            error.written = total - len(data)  # type: ignore[attr-defined]
            _wait_or_raise(error, descriptor)


def write_stderr(text):
    # type: (str) -> None
    """Write the text to stderr. Errors are ignored: there is nowhere left to report them."""
    try:
        descriptor = descriptor_of(sys.stderr)
        if descriptor is None:
            sys.stderr.write(text)
            sys.stderr.flush()
        else:
            encoding = getattr(sys.stderr, "encoding", None) or "ascii"
            write_all(descriptor, text.encode(encoding, "backslashreplace"))
    except EnvironmentError:
        pass


def _wait_or_raise(error, writable):
    # type: (EnvironmentError, Any) -> None
    """Return when the write is worth a retry; otherwise raise the error."""
    if error.errno == errno.EAGAIN:
        # Another program that shares the terminal or the pipe has made it non-blocking.
        from benchmarkai.polling import POLLOUT, wait_for

        wait_for(POLLOUT, writable)
    elif error.errno != errno.EINTR:
        raise error
