"""The sink of stdout mode, and how text reaches the standard streams whole."""

import errno
import os
import stat
import sys
import time
from _weakref import ref

from benchmarkai._compat import PY2, get_ident, thread_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Sequence  # noqa: F401

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
        # A stream with its encoding, its attributes, its raw file, and the size up to which a
        # write to it is atomic. It is one tuple because another thread may replace sys.stdout, and
        # then this, at any moment.
        self._target = (self, None, (), None, 0)  # type: Any
        self._cut = []  # type: List[Any]  # where a line was cut: the next one starts on a new line
        self._writing = []  # type: List[int]  # threads in the middle of a write that is not atomic
        if alone and _ends_inside_line(sys.stdout):
            self._cut.append(_file_of(sys.stdout, sys.stdout))

    def write(self, lines):
        # type: (Sequence[str]) -> None
        """Write and flush the lines (ASCII), after everything that the program has printed.

        Raises OSError (IOError on Python 2) if stdout is closed, full, or has no reader. Its
        attribute `written` is the number of bytes that had been written.
        """
        self.write_line("".join(lines).encode("ascii"))

    def write_line(self, data):
        # type: (bytes) -> None
        """Like write(), for one line."""
        while True:
            stream = sys.stdout
            try:
                return self._write(stream, data)
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
                    "a signal handler has interrupted a write to the same stream: call emit() "
                    "after the handler"
                )
            # Raised here because inside of the except clause it would carry a second traceback.
            failure = IOError(code, "cannot write to stdout: " + reason)
            failure.written = written  # type: ignore[attr-defined]
            raise failure

    def _write(self, stream, data):
        # type: (Any, bytes) -> None
        known, encoding, attributes, raw, atomic_size = self._target
        changed = (
            stream is not known
            or stream.encoding is not encoding  # by reconfigure()
            or "write" in attributes  # replaced to copy what is printed
        )
        if (
            not (changed or self._cut or self._alone)
            and len(data) <= atomic_size
            and _is_blocking(raw.fileno())
        ):
            # Nearly all calls; the same as in the other way, in short.
            try:
                stream.flush()
            except RuntimeError as error:
                if not _is_reentrant(error):
                    raise
                return self._write_with_care(stream, data, raw, atomic_size)
            count = raw.write(data)
            if count != len(data):
                self._write_rest(stream, raw, data, count or 0)
            return None
        if changed:
            raw = raw_file_of(stream)
            if raw is not None:
                attributes = getattr(stream, "__dict__", ())
                atomic_size = sys.maxsize if self._alone else _atomic_size(raw)
                self._target = (stream, stream.encoding, attributes, raw, atomic_size)
        return self._write_with_care(stream, data, raw, atomic_size)

    def _write_rest(self, stream, raw, data, written):
        # type: (Any, Any, bytes, int) -> None
        try:
            write_all(raw, data, written)
        except BaseException:
            self._remember_cut(stream, raw)
            raise

    def _remember_cut(self, stream, raw):
        # type: (Any, Any) -> None
        self._cut = self._cut[-15:] + [_file_of(stream, raw)]

    def _write_with_care(self, stream, data, raw, atomic_size):
        # type: (Any, bytes, Any, int) -> None
        cut = bool(self._cut) and _file_of(stream, raw) in self._cut
        if cut:
            data = b"\n" + data
        try:
            if not self._alone and hasattr(stream, "flush"):
                # Also before the stream gets the line: if it is busy, it says so now.
                _wait_in(stream, stream.flush)
            if raw is None:
                _wait_in(stream, lambda: _write_to_stream(stream, data))
            else:
                self._write_to_file(raw, data, atomic_size)
        except RuntimeError as error:
            if raw is None or not _is_reentrant(error) or get_ident() in self._writing:
                raise
            # A signal handler has interrupted a print(), and cannot know how much of its text is
            # out: the metrics get a line of their own.
            self._write_to_file(raw, data if cut else b"\n" + data, atomic_size)
        except BaseException as error:
            written = getattr(error, "written", None)  # None: unknown
            if written if written is not None else raw is None or len(data) > atomic_size:
                self._remember_cut(stream, raw)
            if cut and written:
                error.written = written - 1  # type: ignore[attr-defined]
            raise
        if cut:
            self._cut = [file for file in self._cut if file != _file_of(stream, raw)]

    def _write_to_file(self, raw, data, atomic_size):
        # type: (Any, bytes, int) -> None
        if len(data) <= atomic_size:
            write_all(raw, data)
        else:
            self._write_in_parts(raw, data)

    def _write_in_parts(self, raw, data):
        # type: (Any, bytes) -> None
        thread = get_ident()
        if thread in self._writing:
            error = RuntimeError("reentrant call of emit()")
            error.written = 0  # type: ignore[attr-defined]
            raise error
        self._writing.append(thread)
        try:
            write_all(raw, data)
        finally:
            self._writing.remove(thread)


def _write_to_stream(stream, data):
    # type: (Any, bytes) -> None
    try:
        stream.write(data if PY2 else data.decode("ascii"))
    except TypeError:
        if not PY2:
            raise
        stream.write(data.decode("ascii"))  # as the module io wants it
    try:
        if hasattr(stream, "flush"):
            stream.flush()
    except ValueError:
        if not _is_closed(stream):  # by another thread; that has flushed it
            raise


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
    if PY2 and type(stream) is file:  # noqa: F821
        return _RawFile(stream)
    raw = _raw_of_text(stream)
    if raw is None or stream.encoding.lower() not in _ASCII_COMPATIBLE:
        return None
    for part in (stream, stream.buffer):
        write = getattr(part, "__dict__", {}).get("write")
        if write is not None and getattr(write, "__module__", None) != __name__:
            return None
    return raw if _is_standard(stream) and not PY2 else _RawFile(stream)


def _raw_of_text(stream):
    # type: (Any) -> Any
    """Return the FileIO under an io.TextIOWrapper, or None for any other stream."""
    # Compared by name, because Python 2 would have to import io for the types.
    if _name_of_type(stream) != "_io.TextIOWrapper":
        return None
    buffer = stream.buffer
    raw = buffer.raw if _name_of_type(buffer) == "_io.BufferedWriter" else buffer
    return raw if _name_of_type(raw) == "_io.FileIO" else None


def _name_of_type(value):
    # type: (Any) -> str
    return type(value).__module__ + "." + type(value).__name__


def _is_closed(stream):
    # type: (Any) -> bool
    try:
        return stream is None or getattr(stream, "closed", False) is True
    except ValueError:  # detached
        return True


def _is_reentrant(error):
    # type: (RuntimeError) -> bool
    """Return whether code that must not be interrupted by itself raised the error.

    It is the one that is being handled. Up to Python 3.10 it has no text if another signal came
    while C made that; then its traceback ends where C was called.
    """
    if str(error):
        return str(error).startswith("reentrant call")
    traceback = sys.exc_info()[2]
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals is globals()


def _atomic_size(raw):
    # type: (Any) -> int
    """Return up to how many bytes a write to the file is done whole or not at all."""
    descriptor = raw.fileno()
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(descriptor)):
        return sys.maxsize
    return os.fpathconf(descriptor, "PC_PIPE_BUF") if stat.S_ISFIFO(mode) else 0


def _file_of(stream, raw):
    # type: (Any, Any) -> Any
    """Return what identifies the file of a stream."""
    try:
        status = os.fstat(raw.fileno())
        return status.st_dev, status.st_ino
    except (AttributeError, EnvironmentError, ValueError):
        return stream


class _RawFile(object):
    """The raw file of a stream that has none, or that another thread may close.

    The number of a closed descriptor may belong to another file at once. The methods of the stream
    have locks against that, but a process that is forked while one of them is held stops there.
    """

    def __init__(self, stream):
        # type: (Any) -> None
        self._stream = stream  # type: Any
        self.fileno = stream.fileno

    def write(self, data):
        # type: (bytes) -> Optional[int]
        number = self.fileno()
        if not thread_count() or _is_standard(self._stream):
            return self._write(number, data)
        try:
            descriptor = os.dup(number)
        except EnvironmentError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return self._write(number, data)
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


def write_all(raw, data, written=0):
    # type: (Any, bytes, int) -> None
    """Write all the bytes, with one call of write() where the system accepts them at once.

    raw: see raw_file_of().
    written: the number of bytes that have been written before.

    Raises OSError (IOError on Python 2). Its attribute `written` is the number of bytes that had
    been written.
    """
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


if PY2:

    def _is_blocking(descriptor):
        # type: (int) -> bool
        return False  # _wait_in() asks

    def _wait_in(stream, action):
        # type: (Any, Callable[[], object]) -> None
        """Call the action, which writes to the stream, with a file that is not non-blocking.

        C drops what the system does not accept at once.
        """
        try:
            from fcntl import F_GETFL, F_SETFL, fcntl

            flags = fcntl(stream, F_GETFL)
        except Exception:  # not a file, or the interpreter is ending
            flags = 0
        if flags & os.O_NONBLOCK:
            fcntl(stream, F_SETFL, flags & ~os.O_NONBLOCK)
        try:
            while True:
                try:
                    action()
                    return
                except EnvironmentError as error:
                    # Only a flush may be repeated.
                    if error.errno != errno.EINTR or action != stream.flush:
                        raise
        finally:
            if flags & os.O_NONBLOCK:
                fcntl(stream, F_SETFL, flags)

else:
    # Python 3.4 cannot tell.
    _is_blocking = getattr(os, "get_blocking", lambda descriptor: False)

    _waiting = []  # type: List[int]  # the threads in _wait_in(), once for each call

    def _wait_in(stream, action):
        # type: (Any, Callable[[], object]) -> None
        """Call the action, which writes to the stream, without loss if its file is non-blocking.

        TextIOWrapper drops what its buffer does not accept at once. So the buffer gets methods
        that wait, for this thread alone: the program's own calls raise BlockingIOError as before.
        They stay, because other threads may be in the middle of them.
        """
        raw = _raw_of_text(stream)
        if raw is not None and raw is not stream.buffer and not _is_blocking(raw.fileno()):
            if "write" not in stream.buffer.__dict__:
                _let_wait(stream.buffer)
        _waiting.append(get_ident())
        try:
            action()
        finally:
            _waiting.remove(get_ident())

    def _let_wait(buffer):
        # type: (Any) -> None
        kind, reference = type(buffer), ref(buffer)  # without a cycle, which would delay its end

        def write(data):
            # type: (bytes) -> int
            size = len(data)
            while True:
                try:
                    kind.write(reference(), data)
                    return size
                except BlockingIOError as error:  # novm
                    if get_ident() not in _waiting:
                        raise
                    data = data[error.characters_written :]
                _wait_for_room(reference())

        def flush():
            # type: () -> None
            while True:
                try:
                    return kind.flush(reference())  # type: ignore[no-any-return]
                except BlockingIOError:  # novm
                    if get_ident() not in _waiting:
                        raise
                _wait_for_room(reference())

        buffer.write = write
        buffer.flush = flush


def _wait_for_room(stream):
    # type: (Any) -> None
    """Return when a non-blocking file accepts more: a terminal or a pipe that others share."""
    try:
        from benchmarkai.polling import POLLOUT, wait_for
    except (ImportError, RuntimeError):
        # The interpreter is ending, or a signal handler has interrupted the import.
        time.sleep(0.01)
    else:
        wait_for(POLLOUT, stream)
