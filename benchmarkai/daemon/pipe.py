"""The daemon's end of the named pipe, from which the kernel moves the data into a file."""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import stat
import sys
import termios
from typing import Any, Optional

from benchmarkai.daemon.files import leads_to

_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032  # fcntl(2), Linux
_SPLICE_F_NONBLOCK = 2  # splice(2), tee(2)

# Whoever waits for room may write between two of these, before the last one.
_MAX_LAST_MOVES = 10

_CAPACITY = 1 << 20  # bytes; the most that users may ask for (/proc/sys/fs/pipe-max-size)
_DEFAULT_CAPACITY = 1 << 16  # bytes; pipe(7)


class PipeError(Exception):
    """The path cannot be used for the pipe of a daemon."""


class Pipe:
    """A named pipe, which the daemon empties into a file.

    path: where the pipe is, or is created.
    mode: its permissions, whatever the umask says.

    On Linux, splice(2) takes the data out of the pipe and puts it into the file in one step, so
    that none is lost or doubled if the daemon is killed. On other systems, and on file systems
    that cannot do it, data that is read and not written yet is lost then.

    close(), or leaving the context, removes the pipe if it was created here.

    Raises PipeError for a path that is not a named pipe, or not trusted.
    """

    def __init__(self, path: str, mode: int) -> None:
        self.path = path
        self.mode = mode
        self.created = False
        self._remaining: Optional[int] = None  # bytes that are still ours; None means all
        self._is_ending = False
        self._last_moves = 0
        self._unwritten = b""  # data that was read, without splice(2), and not written yet
        libc = ctypes.CDLL(None, use_errno=True)
        self._splice = getattr(libc, "splice", None)
        self._tee = getattr(libc, "tee", None)
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
        stack.callback(self._remove)
        status = os.fstat(self._descriptor)
        self._check(status)
        if status.st_uid == os.geteuid() and _is_readable_by_others(status):
            os.fchmod(self._descriptor, self.mode)
        # At the end, the data must fit into a copy.
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
        return leads_to(self.path, os.fstat(self._descriptor))

    def reopen(self) -> "Pipe":
        """Return a new pipe for the path of this one, which somebody has removed.

        Raises PipeError.
        """
        return Pipe(self.path, self.mode)

    def move(self, file: int, offset: int) -> int:
        """Move data from the pipe into a file, and return how many bytes it was.

        file: a descriptor.
        offset: where in the file to write.

        Raises OSError if the file cannot be written. The data is not lost then.
        """
        if self._is_ending and self._remaining is None and not self._unwritten:
            self._fill()
            data = self._look()
            if not data:
                return 0
            self._last_moves += 1
            if self._last_moves > _MAX_LAST_MOVES:
                # Somebody always finds the room that moving the data makes. So leave it there.
                self._unwritten = data + b"\n"
                self._remaining = len(self._unwritten)
        size = self._capacity if self._remaining is None else self._remaining
        moved = self._move(file, offset, size) if size else 0
        if self._remaining is not None:
            self._remaining -= moved
        return moved

    def end(self) -> bool:
        """Stop accepting writes, as far as that is ours to do. What is left can still be moved.

        A pipe that we created, or whose path is gone, is kept full of newlines. Whoever has it
        open waits, and opens the path anew once the pipe is closed, so nothing can be written
        and lost. Any other pipe stays, and what is written to it from now on is for its next
        reader.

        Returns whether what is left is the last that anybody will read from this pipe.
        """
        if not self.created and self.is_in_place():
            self._remaining = self._readable_size() + len(self._unwritten)
            return False
        if self._tee is None:
            self._remove()
        else:
            self._is_ending = True
            self._fill()
        return True

    def _fill(self) -> None:
        for filler in (b"\n" * select.PIPE_BUF, b"\n"):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(self._descriptor, filler)

    def _look(self) -> bytes:
        """Return what is in the pipe, without newlines at its end, and leave it there."""
        size = _call(
            self._tee,
            self._descriptor,
            self._copy_end,
            ctypes.c_size_t(self._capacity),
            _SPLICE_F_NONBLOCK,
        )
        return _read(self._copy, size).rstrip(b"\n")

    def _move(self, file: int, offset: int, size: int) -> int:
        if self._splice is not None and not self._unwritten:
            try:
                return _call(
                    self._splice,
                    self._descriptor,
                    None,
                    file,
                    ctypes.byref(ctypes.c_longlong(offset)),
                    ctypes.c_size_t(size),
                    _SPLICE_F_NONBLOCK,
                )
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._splice = None  # the file system cannot do it
        if not self._unwritten:
            with contextlib.suppress(BlockingIOError):
                self._unwritten = os.read(self._descriptor, size)
        moved = 0
        while self._unwritten:
            try:
                written = os.pwrite(file, self._unwritten, offset + moved)
            except OSError:
                if not moved:
                    raise
                break
            self._unwritten = self._unwritten[written:]
            moved += written
        return moved

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


def _call(function: Any, *arguments: Any) -> int:
    """Call a function of the C library, and return the number of bytes that it has moved."""
    size: int = function(*arguments)
    if size < 0:
        code = ctypes.get_errno()
        if code in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(code, os.strerror(code))
    return size


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        parts.append(os.read(descriptor, size))
        size -= len(parts[-1])
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
    with contextlib.suppress(OSError):
        return fcntl.fcntl(descriptor, _F_SETPIPE_SZ, size)
    # A user with many pipes gets smaller ones: /proc/sys/fs/pipe-user-pages-soft.
    with contextlib.suppress(OSError):
        return fcntl.fcntl(descriptor, _F_GETPIPE_SZ)
    return _DEFAULT_CAPACITY
