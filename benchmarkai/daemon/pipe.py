"""The daemon's end of the named pipe: made or trusted, looked at, and only then taken from."""

import ctypes
import errno
import fcntl
import os
import select
import stat
import sys
import termios

_SET_SIZE = 1031  # F_SETPIPE_SZ of fcntl(2), Linux
_ROOM = 1 << 20  # bytes: what a user may ask for (/proc/sys/fs/pipe-max-size)
_NON_BLOCKING = 2  # SPLICE_F_NONBLOCK of tee(2)


class PipeError(Exception):
    """The path cannot be used for the pipe of a daemon."""


class Pipe(object):
    """A named pipe from which nothing is taken before it is kept elsewhere.

    path: where it is, or is made.
    mode: its permissions, whatever the umask says.

    Linux' tee(2) shows what is in the pipe and leaves it there: peek(), keep it, consume(). A
    daemon that is killed in between finds it again. Elsewhere peek() takes it.

    Raises PipeError for a path that is no pipe, or not a trusted one, or has a daemon already.
    """

    def __init__(self, path, mode):
        self.path = path
        self.made = False
        self._held = b""  # what has been read, where there is no tee(2)
        self._left = None  # bytes that are still to be taken from a pipe that was there, at its end
        self._full = False  # the pipe was made here, and is at its end
        self._done = False  # all of it was taken
        self._tee = getattr(ctypes.CDLL(None, use_errno=True), "tee", None)
        try:
            try:
                _make(path, mode)
                self.made = True
            except FileExistsError:
                self._check(os.lstat(path))
            # For writing too: a pipe that nobody has open for writing is at its end.
            self._descriptor = os.open(
                path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            )
            self._lock()
            status = os.fstat(self._descriptor)
            self._check(status)
            if status.st_uid == os.geteuid() and _others_read(status):
                os.fchmod(self._descriptor, mode)
        except OSError as failure:
            raise PipeError(
                "cannot use the pipe %r: %s: look at the path and its permissions"
                % (path, os.strerror(failure.errno))
            )
        # What the copy has no room for cannot be seen: it gets at least as much as the pipe.
        self._copy, self._copy_end = os.pipe()
        self._most = _enlarge(self._copy_end, _ROOM)
        _enlarge(self._descriptor, self._most)

    def fileno(self):
        return self._descriptor

    def is_in_place(self):
        """Return whether the path still leads to this pipe."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self._descriptor))
        except OSError:
            return False

    def peek(self):
        """Return what is in the pipe, or as much of it as can be shown at once."""
        if self._done:
            return b""
        if self._tee is None:
            self._held = self._held or self._read(self._descriptor, _ROOM)
            return self._held
        count = self._tee(self._descriptor, self._copy_end, self._most, _NON_BLOCKING)
        if count < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return b""
            raise OSError(code, os.strerror(code))
        return self._read(self._copy, count)[: self._left]

    def consume(self, data):
        """Take these bytes, which peek() has shown."""
        self._held = b""
        if self._full:
            # Out of a pipe that nobody may write any more nothing is taken: that would make room.
            self._done = True
            return
        if self._tee is not None:
            self._read(self._descriptor, len(data))
        if self._left is not None:
            self._left -= len(data)
            self._done = not self._left

    def end(self):
        """Let no more be written, if the pipe was made here; what is in it now can be taken.

        Whoever has it open finds it full of newlines until it is closed, and then opens the path
        anew: nothing can get into it and be lost. A pipe that was there before goes on without
        this daemon: what is written to it from now on is for the next reader.
        """
        if not self.made:
            self._left = self._count()
            self._done = not self._left
            return
        if self.is_in_place():
            os.unlink(self.path)
        if self._tee is None:
            return
        for filler in (b"\n" * select.PIPE_BUF, b"\n"):
            try:
                while True:
                    os.write(self._descriptor, filler)
            except BlockingIOError:
                pass
        self._full = True

    def _count(self):
        """Return how many bytes are in the pipe."""
        if self._held:
            return len(self._held)
        count = fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    def close(self):
        for descriptor in (self._descriptor, self._copy, self._copy_end):
            os.close(descriptor)

    def _check(self, status):
        if not stat.S_ISFIFO(status.st_mode):
            raise PipeError(
                "%r is not a named pipe, and was left as it is: move it away, or give another "
                "path (--fifo)" % self.path
            )
        if status.st_uid not in (0, os.geteuid()):
            raise PipeError(
                "the pipe %r belongs to the user %d, who could read it or take it away: remove "
                "it, or give another path (--fifo)" % (self.path, status.st_uid)
            )

    def _lock(self):
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipeError(
                "another daemon reads the pipe %r: stop it, or give another path (--fifo)"
                % self.path
            )

    @staticmethod
    def _read(descriptor, count):
        parts = []
        while count:
            try:
                part = os.read(descriptor, count)
            except BlockingIOError:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _others_read(status):
    return bool(status.st_mode & (stat.S_IRGRP | stat.S_IROTH))


def _make(path, mode):
    # At once with its mode: who is not allowed to open a pipe does not wait until it is.
    old = os.umask(0)
    try:
        os.mkfifo(path, mode)
    finally:
        os.umask(old)


def _enlarge(descriptor, size):
    """Give the pipe more room where the system lets us, and return how much it has."""
    try:
        return fcntl.fcntl(descriptor, _SET_SIZE, size)
    except OSError:
        return 1 << 16
