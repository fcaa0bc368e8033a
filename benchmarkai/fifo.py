"""The sink of FIFO mode: it writes to a named pipe that another process creates and reads."""

import errno
import fcntl
import os
import select
import stat
import time

from benchmarkai._compat import PY2, monotonic
from benchmarkai.errors import (
    FifoError,
    FifoNotCreatedInTimeError,
    FifoNotReadInTimeError,
    NotAFifoError,
)
from benchmarkai.polling import POLLOUT, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional, Sequence, Tuple, Type  # noqa: F401

# POSIX: a write of at most PIPE_BUF bytes goes into a pipe whole, whoever else writes to it.
MAX_LINE_SIZE = select.PIPE_BUF

_NOTICE_AFTER = 1.0  # seconds of waiting
_MAX_SLEEP = 3600.0  # seconds; the system rejects much longer ones
_HIGH_DESCRIPTOR = 200  # the lowest number that we ask for

# Without O_CREAT, because the pipe is never created here. With O_NONBLOCK, open() does not
# wait for a reader but fails with ENXIO. Python 2 has no O_CLOEXEC.
_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | getattr(os, "O_CLOEXEC", 0)

# Python 3.7 tells of a fork; older ones have to be asked at each write.
_HAS_FORK_HOOK = hasattr(os, "register_at_fork")


def _duplicate_high(descriptor):
    # type: (int) -> int
    """Return a duplicate with a number far above those that the program gets for its files.

    Otherwise a program that started with its stdout closed would print into the pipe, and one
    that closes all descriptors and then opens a file would receive the metrics in it. Returns the
    descriptor itself if it is high.
    """
    duplicate = getattr(fcntl, "F_DUPFD_CLOEXEC", fcntl.F_DUPFD)
    for lowest in (_HIGH_DESCRIPTOR, 3):
        if descriptor >= lowest:
            break
        try:
            descriptor = fcntl.fcntl(descriptor, duplicate, lowest)
            break
        except EnvironmentError:
            if lowest != _HIGH_DESCRIPTOR:  # the limit is lower, or nearly reached
                raise
    _close_on_exec(descriptor)
    return descriptor


def _identity(status):
    # type: (os.stat_result) -> Tuple[int, int]
    return status.st_dev, status.st_ino


def _replace(old, new):
    # type: (int, int) -> None
    """Make the number of the old descriptor refer to the file of the new one, and close that."""
    if PY2:
        os.dup2(new, old)
        _close_on_exec(old)
    else:
        os.dup2(new, old, inheritable=False)  # novm
    os.close(new)


def _close_on_exec(descriptor):
    # type: (int) -> None
    fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)


def _sleep(seconds):
    # type: (float) -> None
    try:
        time.sleep(seconds)
    except EnvironmentError as error:  # Python 2 and 3.4: a signal arrived
        if error.errno != errno.EINTR:
            raise


def _kind_of_file(mode):
    # type: (int) -> str
    kinds = (
        (stat.S_ISREG, "a regular file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    )
    return next((name for test, name in kinds if test(mode)), "something else")


class _Attempt(object):
    """One write() that has to wait: its deadline, and what to say once that has passed."""

    def __init__(self, sink, lines):
        # type: (FifoSink, Sequence[str]) -> None
        self.sink = sink
        self.lines = lines
        self.index = 0  # of the line to be written
        self.reopened = False
        self.start = monotonic()

    def waited(self):
        # type: () -> float
        return monotonic() - self.start

    def is_over(self):
        # type: () -> bool
        return self.waited() >= self.sink.max_wait

    def pause(self, reason, limit):
        # type: (str, float) -> float
        """Return how many seconds to wait now, up to the limit. Send the notice after a second."""
        sink, waited = self.sink, self.waited()
        if sink.notify is not None:
            if waited >= _NOTICE_AFTER:
                notify, sink.notify = sink.notify, None
                notify("%s: waiting for up to %g s" % (reason, sink.max_wait))
            else:
                limit = min(limit, _NOTICE_AFTER - waited)
        # Not less than a millisecond: the clock of Python 2 stands still for ten.
        return max(0.001, min(limit, sink.max_wait - waited, _MAX_SLEEP))

    def error(self, kind, reason, remedy=None):
        # type: (Type[FifoError], str, Optional[str]) -> FifoError
        if remedy is None:
            remedy = (
                "start the daemon that creates and reads the pipe, or give it longer "
                "(BENCHMARK_AI_FIFO_MAX_WAIT_TIME, --max-wait)"
            )
        if self.index:
            reason += " (%d of the %d lines of this call had been written)" % (
                self.index,
                len(self.lines),
            )
        waited = round(self.waited(), 2)
        if waited:
            reason += " after %g s" % waited
        error = kind("%s: %s" % (reason, remedy))
        error.written = sum(map(len, self.lines[: self.index]))
        return error

    def failed(self, failure):
        # type: (EnvironmentError) -> FifoError
        return self.error(
            FifoError,
            "cannot write to the pipe %r: %s" % (self.sink.path, os.strerror(failure.errno or 0)),
            "check the path, its permissions and the limits of this process",
        )


# The last in this module: if a signal handler interrupts its import, it finds all of it or nothing.
class FifoSink(object):
    """Writes lines to the named pipe at a path, each with one write().

    path: the path of the pipe.
    max_wait: seconds that one write() may wait in total, for any reason.
    step: seconds between checks for the pipe and its reader.
    notify: called with the reason, a text, the first time that a write() has waited a second.

    Threads, forked processes and signal handlers may share it without a lock: the descriptor
    keeps its number, and a reopened pipe takes the place of the old one atomically (dup2).
    """

    max_line_size = MAX_LINE_SIZE

    def __init__(self, path, max_wait, step, notify=None):
        # type: (str, float, float, Optional[Callable[[str], None]]) -> None
        self.path = path
        self.max_wait = max_wait
        self.step = step
        self.notify = notify
        self._descriptor = -1
        self._opened = []  # type: List[int]
        self._identities = ()  # type: Tuple[Tuple[int, int], ...]
        self._process = os.getpid()
        self._forked = not _HAS_FORK_HOOK  # perhaps
        self._reopen = False
        if _HAS_FORK_HOOK:
            os.register_at_fork(after_in_child=self._suspect)  # novm

    def _suspect(self):
        # type: () -> None
        self._forked = True

    def write_line(self, line):
        # type: (bytes) -> None
        """Like write(), for one line."""
        if not self._forked and not self._reopen:
            try:
                os.write(self._descriptor, line)
                return
            except EnvironmentError:
                pass  # write() tries again, and finds out why
        self.write([line.decode("ascii")])

    def write(self, lines):
        # type: (Sequence[str]) -> None
        """Write each of the lines (ASCII, at most max_line_size bytes, as encode() splits them).

        Raises FifoNotCreatedInTimeError, FifoNotReadInTimeError or NotAFifoError; FifoError if
        the system cannot open or write the pipe, for example because of its permissions.
        """
        if self._forked and (_HAS_FORK_HOOK or os.getpid() != self._process):
            # Daemons close all descriptors, and open others that get their numbers.
            if not self._is_ours(self._descriptor):
                self._forget(self._descriptor)
            self._process = os.getpid()
            self._forked = not _HAS_FORK_HOOK
        attempt = None
        if self._reopen:
            if not self._is_in_place():
                attempt = _Attempt(self, lines)
                self._open(attempt)
            self._reopen = False
        written = 0
        for line in lines:
            data = line.encode("ascii")
            while True:
                descriptor = self._descriptor
                try:
                    os.write(descriptor, data)
                    break
                except EnvironmentError as error:
                    failure = error
                # Handled here because errors raised in the except clause would carry a second
                # traceback.
                if attempt is None:
                    attempt = _Attempt(self, lines)
                attempt.index = written
                self._recover(failure, descriptor, attempt)
                del failure  # its traceback refers to this frame: a reference cycle
            written += 1

    def _recover(self, failure, descriptor, attempt):
        # type: (EnvironmentError, int, _Attempt) -> None
        """Return when the write is worth a retry, or raise a FifoError."""
        if failure.errno == errno.EINTR:
            return
        if not self._is_ours(descriptor):  # not open yet, or closed by the program
            self._forget(descriptor)
            self._open(attempt)
        elif failure.errno == errno.EAGAIN:
            reason = "nobody has read the full pipe %r" % self.path
            if attempt.is_over():
                self._reopen = True  # the path may lead to another pipe by then
                raise attempt.error(FifoNotReadInTimeError, reason)
            wait_for(POLLOUT, descriptor, attempt.pause(reason, self.max_wait))
        elif failure.errno == errno.EPIPE:
            if attempt.reopened:
                # Readers could come and go without end, and /dev/fd/N opens without a reader.
                reason = "the readers of %r went away" % self.path
                if attempt.is_over():
                    raise attempt.error(FifoNotReadInTimeError, reason)
                _sleep(attempt.pause(reason, self.step))
            attempt.reopened = True
            self._open(attempt)
        else:
            raise attempt.failed(failure)

    def _is_ours(self, descriptor):
        # type: (int) -> bool
        """Return whether the descriptor still is a pipe that this sink has opened."""
        try:
            return _identity(os.fstat(descriptor)) in self._identities
        except EnvironmentError:
            return False

    def _is_in_place(self):
        # type: () -> bool
        """Return whether the path leads to the pipe that is open."""
        try:
            return _identity(os.stat(self.path)) == _identity(os.fstat(self._descriptor))
        except EnvironmentError:
            return False

    def _forget(self, descriptor):
        # type: (int) -> None
        """Leave the descriptor to the program, which has closed it, unless that is done."""
        if descriptor != -1 and descriptor == self._descriptor:
            self._descriptor = -1
            self._opened = []

    def _take(self, descriptor):
        # type: (int) -> None
        """Use the pipe of a new descriptor from now on."""
        # The last ones too, because another thread may be between this line and the next.
        self._identities = (_identity(os.fstat(descriptor)),) + self._identities[:3]
        current = self._descriptor
        if self._is_ours(current):
            _replace(current, descriptor)
            return
        self._forget(current)
        # If several threads open the pipe at the same time, the first one here wins.
        self._opened.append(descriptor)
        self._descriptor = self._opened[0]
        if self._descriptor != descriptor:
            os.close(descriptor)

    def _open(self, attempt):
        # type: (_Attempt) -> None
        descriptor = None
        while descriptor is None:
            failure = None
            try:
                descriptor = self._open_once(attempt)
            except EnvironmentError as error:
                failure = error
            if failure is not None:
                self._wait_for_reader(failure, attempt)
                failure = None  # as in write()
        self._take(descriptor)

    def _open_once(self, attempt):
        # type: (_Attempt) -> int
        # Checked before open() too, because opening some devices has an effect.
        self._check(os.stat(self.path), attempt)
        low = high = os.open(self.path, _FLAGS)
        try:
            self._check(os.fstat(low), attempt)
            high = _duplicate_high(low)
            return high
        except BaseException:
            high = -1
            raise
        finally:
            # In one place, because a number that is closed twice may be that of another file.
            if high != low:
                os.close(low)

    def _check(self, status, attempt):
        # type: (os.stat_result, _Attempt) -> None
        if not stat.S_ISFIFO(status.st_mode):
            raise attempt.error(
                NotAFifoError,
                "%r is %s, not a named pipe, and was left as it is"
                % (self.path, _kind_of_file(status.st_mode)),
                "point BENCHMARK_AI_FIFO_FILEPATH or --fifo at the pipe of the daemon",
            )

    def _wait_for_reader(self, failure, attempt):
        # type: (EnvironmentError, _Attempt) -> None
        if failure.errno == errno.ENOENT:
            kind = FifoNotCreatedInTimeError  # type: Type[FifoError]
            reason = "there is no pipe at %r" % self.path
        elif failure.errno == errno.ENXIO:
            kind, reason = FifoNotReadInTimeError, "nobody reads the pipe %r" % self.path
        elif failure.errno == errno.EINTR:
            return
        else:
            raise attempt.failed(failure)
        if attempt.is_over():
            raise attempt.error(kind, reason)
        _sleep(attempt.pause(reason, self.step))
