"""The sink of FIFO mode: a named pipe that somebody else has created and reads."""

import errno
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

# POSIX: a write of at most PIPE_BUF bytes goes into a pipe whole, whoever else writes.
LONGEST = select.PIPE_BUF

_NOTICE_AFTER = 1.0  # seconds of waiting

# No O_CREAT: the pipe is never made here. No waiting in open(): with O_NONBLOCK it fails with
# ENXIO while nobody reads. Python 2 has no O_CLOEXEC.
_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | getattr(os, "O_CLOEXEC", 0)


class Fifo(object):
    """Writes lines into the named pipe at a path, each as one write.

    path: of the pipe.
    max_wait: seconds that one write() may wait in all, for whatever reason.
    step: seconds between two looks at the path.
    notify: called with the reason, a text, when a write() has waited for a second.

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

    def write(self, lines):
        """Write each of the lines (text of ASCII, at most PIPE_BUF bytes).

        Raises FifoNotCreatedInTimeError, FifoNotReadInTimeError, NotAFifoError, and FifoError
        when the system refuses the pipe, such as for want of permission.
        """
        wait = None
        for index, line in enumerate(lines):
            data = line.encode("ascii")
            while True:
                try:
                    os.write(self._descriptor, data)
                    break
                except EnvironmentError as error:
                    failure = error
                # Not in the except clause: what is raised there comes with a second traceback.
                if wait is None:
                    wait = _Wait(self.max_wait, self.notify, len(lines))
                wait.written = index
                self._recover(failure, wait)

    def _recover(self, error, wait):
        """Make the next write succeed, or raise a FifoError."""
        if error.errno == errno.EAGAIN:
            self._wait_for_room(wait)
        elif error.errno == errno.EPIPE:
            if wait.reopened:  # readers that come and go must not keep it here for good
                wait.next(FifoNotReadInTimeError, "the readers of %r went away" % self.path, 0)
            wait.reopened = True
            self._open(wait)
        elif error.errno == errno.EBADF:
            # Not open yet, or the program closed every descriptor, as daemons do: the number
            # may be somebody else's by now.
            self._descriptor = -1
            self._open(wait)
        elif error.errno != errno.EINTR:
            raise self._refused(error, wait)

    def _wait_for_room(self, wait):
        reason = "nobody has read the full pipe %r" % self.path
        seconds = wait.next(FifoNotReadInTimeError, reason, self.max_wait)
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        try:
            # Rounded up: poll(0) would not wait at all.
            poll.poll(int(seconds * 1000) + 1)
        except (EnvironmentError, select.error) as error:
            if error.args[0] != errno.EINTR:
                raise

    def _open(self, wait):
        descriptor = None
        while descriptor is None:
            failure = None
            try:
                descriptor = self._open_now()
            except EnvironmentError as error:
                failure = error
            if failure is not None:
                self._wait_for_reader(failure, wait)
        if self._descriptor == -1:
            self._descriptor = descriptor
        else:
            _replace(self._descriptor, descriptor)

    def _wait_for_reader(self, failure, wait):
        if failure.errno == errno.ENOENT:
            kind, reason = FifoNotCreatedInTimeError, "there is no pipe at %r" % self.path
        elif failure.errno == errno.ENXIO:
            kind, reason = FifoNotReadInTimeError, "nobody reads the pipe %r" % self.path
        elif failure.errno == errno.EINTR:
            return
        else:
            raise self._refused(failure, wait)
        _sleep(wait.next(kind, reason, self.step))

    def _open_now(self):
        # Looked at before it is opened: opening alone does something to some devices.
        self._check(os.stat(self.path))
        descriptor = os.open(self.path, _FLAGS)
        try:
            self._check(os.fstat(descriptor))
            return _private(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def _check(self, status):
        if not stat.S_ISFIFO(status.st_mode):
            raise NotAFifoError(
                "%r is %s, not a named pipe, and was left as it is: "
                "point BENCHMARK_AI_FIFO_FILEPATH or --fifo at the pipe that the daemon has created"
                % (self.path, _kind(status.st_mode))
            )

    def _refused(self, error, wait):
        return FifoError(
            "cannot write to the pipe %r: %s%s: look at the path, its permissions and the "
            "limits of this process" % (self.path, os.strerror(error.errno), wait.so_far())
        )


class _Wait(object):
    """The one deadline of a write, and what to say when it has passed."""

    def __init__(self, max_wait, notify, total):
        self.max_wait = max_wait
        self.notify = notify
        self.written = 0
        self.total = total
        self.reopened = False
        self.start = monotonic()

    def next(self, kind, reason, longest):
        """Return for how many seconds to wait now, at most longest, or raise the error."""
        waited = monotonic() - self.start
        if waited >= self.max_wait:
            raise kind(
                "%s after %g s%s: start the daemon that creates and reads the pipe, or give it "
                "longer (BENCHMARK_AI_FIFO_MAX_WAIT_TIME, --max-wait)"
                % (reason, round(waited, 2), self.so_far())
            )
        if self.notify is not None:
            if waited >= _NOTICE_AFTER:
                self.notify("%s: waiting for up to %g s" % (reason, self.max_wait))
                self.notify = None
            else:
                longest = min(longest, _NOTICE_AFTER - waited)
        return min(longest, self.max_wait - waited)

    def so_far(self):
        if not self.written:
            return ""
        return " (%d of the %d lines of this call had been written)" % (self.written, self.total)


def _private(descriptor):
    """Return the descriptor, hidden from child programs and apart from the standard streams.

    A program whose stdout was closed at its start would otherwise print into the pipe.
    """
    if descriptor > 2 and hasattr(os, "O_CLOEXEC"):
        return descriptor
    import fcntl

    if descriptor <= 2:
        low, descriptor = descriptor, fcntl.fcntl(descriptor, fcntl.F_DUPFD, 3)
        os.close(low)
    fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    return descriptor


def _replace(old, new):
    """Let the number of the old descriptor stand for what the new one has open."""
    if PY2:
        os.dup2(new, old)
        _private(old)
    else:
        os.dup2(new, old, inheritable=False)  # novm
    os.close(new)


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
