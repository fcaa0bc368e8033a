"""The daemon's end of the named pipe. Data is read, stored elsewhere, and only then taken out."""

import contextlib
import ctypes
import enum
import errno
import fcntl
import os
import select
import stat
import sys
import termios

_F_SETPIPE_SZ = 1031  # fcntl(2), Linux
_SPLICE_F_NONBLOCK = 2  # tee(2)

_CAPACITY = 1 << 20  # bytes; the most that users may ask for (/proc/sys/fs/pipe-max-size)
_DEFAULT_CAPACITY = 1 << 16  # bytes; pipe(7)


class PipeError(Exception):
    """The path cannot be used for the pipe of a daemon."""


class _State(enum.Enum):
    OPEN = "emitters may write, and all data is ours"
    FILLED = "we created it: it is unlinked, and so full that nobody can write"
    SHARED = "it existed before: only the data that was in it at end() is ours"
    DRAINED = "all data that is ours has been consumed"


class Pipe:
    """A named pipe whose data stays in it until it is stored elsewhere.

    path: where the pipe is, or is created.
    mode: its permissions, whatever the umask says.

    On Linux, tee(2) shows the data and leaves it in the pipe: peek(), store it, consume(). If the
    daemon is killed in between, the next one finds the data again. On other systems peek() takes
    the data out.

    close(), or leaving the context, removes the pipe if it was created here and end() has not
    removed it.

    Raises PipeError for a path that is not a named pipe, is not trusted, or has a daemon already.
    """

    def __init__(self, path: str, mode: int) -> None:
        self.path = path
        self.mode = mode
        self.created = False
        self._state = _State.OPEN
        self._shared_size = 0  # bytes that are still ours in a SHARED pipe
        self._peeked = b""  # data taken out by peek(), without tee(2)
        self._tee = getattr(ctypes.CDLL(None, use_errno=True), "tee", None)
        with contextlib.ExitStack() as stack:
            try:
                self._open(stack)
            except OSError as error:
                raise PipeError(
                    f"cannot use the pipe {path!r}: {os.strerror(error.errno or 0)}: check the "
                    "path and its permissions"
                ) from error
            self._resources = stack.pop_all()

    def _open(self, stack: contextlib.ExitStack) -> None:
        try:
            _create(self.path, self.mode)
            self.created = True
        except FileExistsError:
            self._check(os.lstat(self.path))
        # Also for writing, because a pipe that nobody has open for writing is at end of file.
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self.path, flags)
        except OSError:
            if self.created:
                os.unlink(self.path)
            raise
        stack.callback(os.close, self._descriptor)
        self._lock()
        stack.callback(self._remove)
        status = os.fstat(self._descriptor)
        self._check(status)
        if status.st_uid == os.geteuid() and _is_readable_by_others(status):
            os.fchmod(self._descriptor, self.mode)
        # peek() can show only what fits into the copy, so that must hold all of the pipe.
        self._copy, self._copy_end = os.pipe()
        stack.callback(os.close, self._copy)
        stack.callback(os.close, self._copy_end)
        self._capacity = _set_capacity(self._copy_end, _CAPACITY)
        _set_capacity(self._descriptor, self._capacity)

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._resources.close()

    def fileno(self) -> int:
        return self._descriptor

    def is_in_place(self) -> bool:
        """Return whether the path still leads to this pipe."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self._descriptor))
        except OSError:
            return False

    def reopen(self) -> "Pipe":
        """Return a new pipe for the path of this one, which somebody has removed.

        Raises PipeError.
        """
        return Pipe(self.path, self.mode)

    def peek(self) -> bytes:
        """Return the data in the pipe, or as much of it as can be shown at once."""
        if self._state is _State.DRAINED:
            return b""
        if self._tee is None:
            self._peeked = self._peeked or _read(self._descriptor, _CAPACITY)
            return self._peeked
        size = self._tee(self._descriptor, self._copy_end, self._capacity, _SPLICE_F_NONBLOCK)
        if size < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return b""
            raise OSError(code, os.strerror(code))
        data = _read(self._copy, size)
        return data[: self._shared_size] if self._state is _State.SHARED else data

    def consume(self, data: bytes) -> None:
        """Take this data, which peek() has returned, out of the pipe."""
        self._peeked = b""
        if self._state is _State.FILLED:
            # Taking it out would make room for a writer. The pipe is thrown away with it.
            self._state = _State.DRAINED
            return
        if self._tee is not None:
            _read(self._descriptor, len(data))
        if self._state is _State.SHARED:
            self._set_remaining(self._shared_size - len(data))

    def end(self) -> None:
        """Stop accepting writes, as far as that is ours to do. peek() returns what is left.

        If we created the pipe, unlink it and fill it with newlines: whoever has it open waits,
        and opens the path anew once the pipe is closed, so nothing can be written and lost. A
        pipe that existed before stays, and what is written to it from now on is for its next
        reader.
        """
        if not self.created:
            self._set_remaining(len(self._peeked) or self._readable_size())
            return
        self._remove()
        if self._tee is None:
            return
        for filler in (b"\n" * select.PIPE_BUF, b"\n"):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(self._descriptor, filler)
        self._state = _State.FILLED

    def _set_remaining(self, size: int) -> None:
        self._shared_size = size
        self._state = _State.SHARED if size > 0 else _State.DRAINED

    def _readable_size(self) -> int:
        size = fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4))
        return int.from_bytes(size, sys.byteorder)

    def _remove(self) -> None:
        if self.created and self.is_in_place():
            os.unlink(self.path)

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISFIFO(status.st_mode):
            raise PipeError(
                f"{self.path!r} is not a named pipe, and was left as it is: move it away, or "
                "choose another path (--fifo)"
            )
        if status.st_uid not in (0, os.geteuid()):
            raise PipeError(
                f"the pipe {self.path!r} belongs to the user {status.st_uid}, who could read or "
                "replace it: remove it, or choose another path (--fifo)"
            )

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipeError(
                f"another daemon reads the pipe {self.path!r}: stop it, or choose another path "
                "(--fifo)"
            ) from None


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        try:
            part = os.read(descriptor, size)
        except BlockingIOError:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _is_readable_by_others(status: os.stat_result) -> bool:
    return bool(status.st_mode & (stat.S_IRGRP | stat.S_IROTH))


def _create(path: str, mode: int) -> None:
    # With its final mode from the start: an emitter that is denied access fails at once.
    old_umask = os.umask(0)
    try:
        os.mkfifo(path, mode)
    finally:
        os.umask(old_umask)


def _set_capacity(descriptor: int, size: int) -> int:
    """Set the capacity of a pipe where the system allows it. Return the capacity in bytes."""
    try:
        return fcntl.fcntl(descriptor, _F_SETPIPE_SZ, size)
    except OSError:
        return _DEFAULT_CAPACITY
