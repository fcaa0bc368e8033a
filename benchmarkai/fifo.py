"""The sink of FIFO mode: a named pipe that somebody else has created and reads."""

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
from benchmarkai.waiting import POLLOUT, wait_for

# POSIX: a write of at most PIPE_BUF bytes goes into a pipe whole, whoever else writes.
LONGEST = select.PIPE_BUF

_NOTICE_AFTER = 1.0  # seconds of waiting
_LONGEST_SLEEP = 3600.0  # seconds; the system refuses some that are much longer
_HIGH = 200  # the number from which on the descriptor is, if it may

# No O_CREAT: the pipe is never made here. No waiting in open(): with O_NONBLOCK it fails with
# ENXIO while nobody reads. Python 2 has no O_CLOEXEC.
_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | getattr(os, "O_CLOEXEC", 0)


class Fifo(object):
    """Writes lines into the named pipe at a path, each as one write.

    path: of the pipe.
    max_wait: seconds that one write() may wait in all, for whatever reason.
    step: seconds between two looks at the path.
    notify: called with the reason, a text, the first time that a write() has waited a second.

    Threads and forked processes may share it, and signal handlers may use it, without a lock:
    the descriptor keeps its number for good, and a pipe that is opened again replaces the
    old one there in one step (dup2).
    """

    longest = LONGEST

    def __init__(self, path, max_wait, step, notify=None):
        self.path = path
        self.max_wait = max_wait
        self.step = step
        self.notify = notify
        self._descriptor = -1
        self._opened = []

    def write(self, lines):
        """Write each of the lines (text of ASCII, at most PIPE_BUF bytes).

        Raises FifoNotCreatedInTimeError, FifoNotReadInTimeError, NotAFifoError, and FifoError
        when the system refuses the pipe, such as for want of permission. Its attribute
        `written` is the number of bytes that had gone out.
        """
        wait = None
        for index, line in enumerate(lines):
            data = line.encode("ascii")
            while True:
                descriptor = self._descriptor
                try:
                    os.write(descriptor, data)
                    break
                except EnvironmentError as error:
                    failure = error
                # Not in the except clause: what is raised there comes with a second traceback.
                if wait is None:
                    wait = _Wait(self, lines)
                wait.index = index
                self._recover(failure, descriptor, wait)
                failure = None  # its traceback has this frame, which has it: a circle

    def _recover(self, failure, descriptor, wait):
        """Make the next write succeed, or raise a FifoError."""
        if failure.errno == errno.EAGAIN:
            reason = "nobody has read the full pipe %r" % self.path
            if wait.is_over():
                self._forget()
                raise wait.error(FifoNotReadInTimeError, reason)
            wait_for(POLLOUT, descriptor, wait.seconds(reason, self.max_wait))
        elif failure.errno == errno.EPIPE:
            if wait.reopened and wait.is_over():  # by readers that come and go without end
                raise wait.error(FifoNotReadInTimeError, "the readers of %r went away" % self.path)
            wait.reopened = True
            self._open(wait)
        elif failure.errno == errno.EBADF:
            # Not open yet, or the program closed every descriptor, as daemons do.
            if descriptor != -1 and descriptor == self._descriptor:
                self._descriptor = -1
                self._opened = []
            self._open(wait)
        elif failure.errno != errno.EINTR:
            raise wait.refusal(failure)

    def _open(self, wait):
        descriptor = None
        while descriptor is None:
            failure = None
            try:
                descriptor = self._open_now(wait)
            except EnvironmentError as error:
                failure = error
            if failure is not None:
                self._wait_for_reader(failure, wait)
                failure = None  # as in write()
        if self._descriptor != -1:
            _replace(self._descriptor, descriptor)
            return
        # Of threads that open it at the same time, the first to come here counts.
        self._opened.append(descriptor)
        self._descriptor = self._opened[0]
        if self._descriptor != descriptor:
            os.close(descriptor)

    def _open_now(self, wait):
        # Looked at before it is opened: opening alone does something to some devices.
        self._check(os.stat(self.path), wait)
        descriptor = os.open(self.path, _FLAGS)
        try:
            self._check(os.fstat(descriptor), wait)
            return _apart(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def _check(self, status, wait):
        if not stat.S_ISFIFO(status.st_mode):
            raise wait.error(
                NotAFifoError,
                "%r is %s, not a named pipe, and was left as it is"
                % (self.path, _kind(status.st_mode)),
                "point BENCHMARK_AI_FIFO_FILEPATH or --fifo at the pipe of the daemon",
            )

    def _wait_for_reader(self, failure, wait):
        if failure.errno == errno.ENOENT:
            kind, reason = FifoNotCreatedInTimeError, "there is no pipe at %r" % self.path
        elif failure.errno == errno.ENXIO:
            kind, reason = FifoNotReadInTimeError, "nobody reads the pipe %r" % self.path
        elif failure.errno == errno.EINTR:
            return
        else:
            raise wait.refusal(failure)
        if wait.is_over():
            raise wait.error(kind, reason)
        _sleep(wait.seconds(reason, self.step))

    def _forget(self):
        """Let the next write open the pipe anew: by then it may be another one.

        The descriptor keeps its number, but from now on nobody reads what is written to it.
        """
        try:
            reader, writer = os.pipe()
        except EnvironmentError:  # no descriptors left: the next write tries the same pipe
            return
        os.close(reader)
        _replace(self._descriptor, writer)


class _Wait(object):
    """The one deadline of a write, and what to say when it has passed."""

    def __init__(self, fifo, lines):
        self.fifo = fifo
        self.lines = lines
        self.index = 0  # of the line that is to be written
        self.reopened = False
        self.start = monotonic()

    def waited(self):
        return monotonic() - self.start

    def is_over(self):
        return self.waited() >= self.fifo.max_wait

    def seconds(self, reason, longest):
        """Return for how long to wait now, at most longest, and tell when a second has passed."""
        fifo, waited = self.fifo, self.waited()
        if fifo.notify is not None:
            if waited >= _NOTICE_AFTER:
                notify, fifo.notify = fifo.notify, None
                notify("%s: waiting for up to %g s" % (reason, fifo.max_wait))
            else:
                longest = min(longest, _NOTICE_AFTER - waited)
        return max(0.0, min(longest, fifo.max_wait - waited, _LONGEST_SLEEP))

    def error(self, kind, reason, remedy=None):
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
        error = kind("%s after %g s: %s" % (reason, round(self.waited(), 2), remedy))
        error.written = sum(map(len, self.lines[: self.index]))
        return error

    def refusal(self, failure):
        return self.error(
            FifoError,
            "cannot write to the pipe %r: %s" % (self.fifo.path, os.strerror(failure.errno)),
            "look at the path, its permissions and the limits of this process",
        )


def _apart(descriptor):
    """Return the descriptor under a number far from those that the program gets for its files.

    A program whose stdout was closed at its start would otherwise print into the pipe, and one
    that closes every descriptor and opens a file would get the metrics into it.
    """
    duplicate = getattr(fcntl, "F_DUPFD_CLOEXEC", fcntl.F_DUPFD)
    for lowest in (_HIGH, 3):
        if descriptor < lowest:
            try:
                apart = fcntl.fcntl(descriptor, duplicate, lowest)
            except EnvironmentError:
                if lowest == _HIGH:  # few descriptors are allowed, or left
                    continue
                raise
            os.close(descriptor)
            descriptor = apart
    _close_on_exec(descriptor)
    return descriptor


def _replace(old, new):
    """Let the number of the old descriptor stand for what the new one has open."""
    if PY2:
        os.dup2(new, old)
        _close_on_exec(old)
    else:
        os.dup2(new, old, inheritable=False)  # novm
    os.close(new)


def _close_on_exec(descriptor):
    fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)


def _sleep(seconds):
    try:
        time.sleep(seconds)
    except EnvironmentError as error:  # Python 2 and 3.4: a signal came
        if error.errno != errno.EINTR:
            raise


def _kind(mode):
    kinds = (
        (stat.S_ISREG, "a regular file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    )
    return next((name for test, name in kinds if test(mode)), "something else")
