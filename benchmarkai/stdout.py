"""The sink of stdout mode, and how text reaches the standard streams whole."""

import errno
import os
import stat
import sys
import time

from benchmarkai._compat import PY2, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence  # noqa: F401

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
    """Writes lines to the sys.stdout of the moment.

    alone: whether nothing else in this process prints, as in bai-emit. Then there is no text to
        flush, and a file that ends in the middle of a line gets a newline first.
    """

    max_line_size = None  # type: Optional[int]

    def __init__(self, alone=False):
        # type: (bool) -> None
        self._alone = alone
        # A stream with its encoding, its attributes and its raw file. It is one tuple because
        # another thread may replace sys.stdout, and then this, at any moment.
        self._target = (self, None, (), None)  # type: Any
        # The stream on which a line was cut: the next one starts with a newline.
        self._cut = sys.stdout if alone and _ends_inside_line(sys.stdout) else None  # type: Any

    def write(self, lines):
        # type: (Sequence[str]) -> None
        """Write and flush the lines (ASCII), after everything that the program has printed.

        Raises OSError (IOError on Python 2) if stdout is closed, full, or has no reader. Its
        attribute `written` is the number of bytes that had been written.
        """
        text = "".join(lines)
        while True:
            stream = sys.stdout
            try:
                return self._write(stream, text)
            except (EnvironmentError, ValueError) as error:
                closed = _is_closed(stream)
                if not closed and not isinstance(error, EnvironmentError):
                    raise
                if closed and stream is not sys.stdout:  # another thread has put it back
                    continue
                code = getattr(error, "errno", None) or errno.EBADF
                reason = os.strerror(code)
                written = getattr(error, "written", 0)
            except RuntimeError as error:
                if not _is_reentrant(error):
                    raise
                code, written = errno.EDEADLK, 0
                reason = (
                    "a signal handler has interrupted a print() to the same stream: call emit() "
                    "after the handler"
                )
            # Raised here because inside of the except clause it would carry a second traceback.
            failure = IOError(code, "cannot write to stdout: " + reason)
            failure.written = written  # type: ignore[attr-defined]
            raise failure

    def _write(self, stream, text):
        # type: (Any, str) -> None
        known, encoding, attributes, raw = self._target
        if (
            stream is not known
            or stream.encoding is not encoding  # changed by reconfigure()
            or "write" in attributes  # replaced to copy what is printed
        ):
            raw = raw_file_of(stream)
            if raw is not None:
                attributes = getattr(stream, "__dict__", ())
                self._target = (stream, stream.encoding, attributes, raw)
        cut = self._cut is stream
        if raw is not None and not self._alone:
            try:
                if _is_blocking(raw.fileno()):
                    stream.flush()
                else:
                    _flush_non_blocking(stream, raw)
            except RuntimeError as error:
                # A signal handler has interrupted a print(), and cannot know how much of its text
                # is out: the metrics get a line of their own.
                if not _is_reentrant(error):
                    raise
                cut = True
        if cut:
            text = "\n" + text
        try:
            if raw is not None:
                write_all(raw, text.encode("ascii"))
            else:
                stream.write(text)
                if hasattr(stream, "flush"):
                    stream.flush()
        except BaseException as error:
            written = getattr(error, "written", None)  # None: unknown
            if written != 0:
                self._cut = stream
            if cut and written:
                error.written = written - 1  # type: ignore[attr-defined]
            raise
        if cut:
            self._cut = None


def raw_file_of(stream):
    # type: (Any) -> Any
    """Return the raw file to which ASCII text for this stream can be written directly.

    It has a method write(), which returns the number of bytes that the system has accepted, or
    None if the file is non-blocking and full.

    None means that the text must go through the methods of the stream: it is a test's capture,
    a notebook, a compressed file, or its write() has been replaced. For a plain file the raw file
    is the better way: a failed write leaves nothing in a buffer to come out later, and nothing is
    lost where the stream ignores a short write (python -u) or a signal (Python 2).

    Raises OSError (IOError on Python 2) if the stream is closed.
    """
    if _is_closed(stream):
        raise IOError(errno.EBADF, os.strerror(errno.EBADF))
    kind = type(stream)
    # Compared by name, because Python 2 would have to import io for the type.
    if (kind.__module__, kind.__name__) != ("_io", "TextIOWrapper"):
        return _RawFile(stream) if PY2 and kind is file else None  # noqa: F821
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if (
        type(raw).__name__ == "FileIO"
        and stream.encoding.lower() in _ASCII_COMPATIBLE
        and "write" not in stream.__dict__
    ):
        return raw if _is_standard(stream) else _RawFile(stream)
    return None


def _is_closed(stream):
    # type: (Any) -> bool
    try:
        return stream is None or getattr(stream, "closed", False)
    except ValueError:  # detached
        return True


def _is_reentrant(error):
    # type: (RuntimeError) -> bool
    """Return whether a buffer of io raised the error because its own code was interrupted."""
    return str(error).startswith("reentrant call")


class _RawFile(object):
    """The raw file of a stream that has none, or that another thread may close.

    The number of a closed descriptor may belong to another file at once.
    """

    def __init__(self, stream):
        # type: (Any) -> None
        self._stream = stream  # type: Any

    def fileno(self):
        # type: () -> int
        return self._stream.fileno()  # type: ignore[no-any-return]

    def write(self, data):
        # type: (bytes) -> Optional[int]
        if _is_standard(self._stream):
            return self._write(self.fileno(), data)
        descriptor = os.dup(self.fileno())
        try:
            # If it still is open, it was open when it was duplicated.
            if self._stream.closed:
                raise IOError(errno.EBADF, os.strerror(errno.EBADF))
            return self._write(descriptor, data)
        finally:
            os.close(descriptor)

    @staticmethod
    def _write(descriptor, data):
        # type: (int, bytes) -> Optional[int]
        try:
            return os.write(descriptor, data)
        except EnvironmentError as error:
            if error.errno != errno.EAGAIN:
                raise
            return None


def _is_standard(stream):
    # type: (Any) -> bool
    """Return whether the stream is one that Python has opened; those nearly nobody closes."""
    return stream is sys.__stdout__ or stream is sys.__stderr__


def write_all(raw, data):
    # type: (Any, bytes) -> None
    """Write all the bytes, with one call of write() where the system accepts them at once.

    raw: see raw_file_of().

    Raises OSError (IOError on Python 2). Its attribute `written` is the number of bytes that had
    been written.
    """
    written = 0
    while True:
        try:
            count = raw.write(data[written:] if written else data)
        except EnvironmentError as error:
            if error.errno == errno.EINTR:  # Python 2 and 3.4
                continue
            error.written = written  # type: ignore[attr-defined]
            raise
        written += count or 0
        if written == len(data):
            return
        if count is None:
            _wait_for_room(raw)


def write_stderr(text):
    # type: (str) -> None
    """Write the text to stderr. Errors are ignored: there is nowhere left to report them."""
    try:
        stream = sys.stderr
        raw = raw_file_of(stream)
        if raw is None:
            stream.write(text)
            stream.flush()
        else:
            encoding = getattr(stream, "encoding", None) or "ascii"
            write_all(raw, text.encode(encoding, "backslashreplace"))
    except EnvironmentError:
        pass


def _ends_inside_line(stream):
    # type: (Any) -> bool
    """Return whether the stream writes to a regular file whose last byte is not a newline."""
    try:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return False
        # The descriptor itself is often open for writing only.
        descriptor = os.open("/dev/fd/%d" % stream.fileno(), os.O_RDONLY)
        try:
            os.lseek(descriptor, -1, os.SEEK_END)
            return os.read(descriptor, 1) != b"\n"
        finally:
            os.close(descriptor)
    except (AttributeError, EnvironmentError, ValueError):
        return False


# The threads in _flush_non_blocking(), once for each call.
_flushing = []  # type: List[int]


def _flush_non_blocking(stream, raw):
    # type: (Any, Any) -> None
    """Flush a stream of Python 3 whose file is non-blocking.

    TextIOWrapper.flush() drops what its buffer does not accept at once. So the buffer gets a
    write() that waits, for the flush() of this thread alone: the program's own calls raise
    BlockingIOError as before. It stays, because other threads may be in the middle of it.
    """
    buffer = stream.buffer
    if not hasattr(buffer, "raw"):  # python -u: there is nothing to flush
        return
    if "write" not in buffer.__dict__:
        accept = buffer.write

        def write(data):
            # type: (bytes) -> int
            if get_ident() not in _flushing:
                return accept(data)  # type: ignore[no-any-return]
            size = len(data)
            while True:
                try:
                    accept(data)
                    return size
                except BlockingIOError as error:  # novm
                    data = data[error.characters_written :]
                _wait_for_room(raw)

        buffer.write = write
    _flushing.append(get_ident())
    try:
        while True:
            try:
                return stream.flush()  # type: ignore[no-any-return]
            except BlockingIOError:  # novm
                _wait_for_room(raw)
    finally:
        _flushing.remove(get_ident())


if PY2:

    def _is_blocking(descriptor):
        # type: (int) -> bool
        return False  # asked by _flush_non_blocking()

    def _flush_non_blocking(stream, raw):
        # type: (Any, Any) -> None
        """Flush a stream of Python 2, which must not be non-blocking.

        C drops what the system does not accept at once.
        """
        try:
            from fcntl import F_GETFL, F_SETFL, fcntl
        except RuntimeError:  # the interpreter is ending
            return stream.flush()  # type: ignore[no-any-return]
        flags = fcntl(stream, F_GETFL)
        if flags & os.O_NONBLOCK:
            fcntl(stream, F_SETFL, flags & ~os.O_NONBLOCK)
        try:
            while True:
                try:
                    return stream.flush()  # type: ignore[no-any-return]
                except EnvironmentError as error:
                    if error.errno != errno.EINTR:
                        raise
        finally:
            if flags & os.O_NONBLOCK:
                fcntl(stream, F_SETFL, flags)

else:
    # Python 3.4 cannot tell.
    _is_blocking = getattr(os, "get_blocking", lambda descriptor: False)


def _wait_for_room(stream):
    # type: (Any) -> None
    """Return when a non-blocking file accepts more: a terminal or a pipe that others share."""
    try:
        from benchmarkai.polling import POLLOUT, wait_for
    except (
        ImportError,
        RuntimeError,
    ):  # the interpreter is ending, or a signal handler has interrupted the import
        time.sleep(0.01)
    else:
        wait_for(POLLOUT, stream)
