"""The life of a daemon, from its pipe to its last delivery."""

import logging
import os
import select
import signal
import subprocess
import time

from benchmarkai import emitter
from benchmarkai.daemon.intake import EMPTY, FULL, LITTLE, MUCH, Intake
from benchmarkai.daemon.pipe import Pipe, PipeError

log = logging.getLogger("bai-daemon")

# Seconds: until there may be room in the spool; until some more metrics have come, because what
# many have in common costs more than they do; between two looks at the path and the delivery.
_PAUSES = {FULL: 0.1, LITTLE: 0.02, EMPTY: 1.0}
_STOPS = (signal.SIGTERM, signal.SIGINT)
_PASSED_ON = _STOPS + (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class CommandError(Exception):
    """The command cannot be started.

    code: the exit code of a shell for that.
    """

    def __init__(self, reason, code):
        super(CommandError, self).__init__(reason)
        self.code = code


class Signals(object):
    """The signals that are caught from now on, instead of ending the process.

    fileno() can be read as soon as one has come, a child's end among them.
    """

    def __init__(self, with_command):
        self._come = []
        self._wake, self._woken = os.pipe()
        for end in (self._wake, self._woken):
            os.set_blocking(end, False)
        for number in _PASSED_ON if with_command else _STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, lambda number, frame: self._come.append(number))
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)

    def fileno(self):
        return self._wake

    def take(self):
        """Return the numbers of those that have come since the last call."""
        try:
            while os.read(self._wake, 4096):
                pass
        except BlockingIOError:
            pass
        come, self._come = self._come, []
        return come


class Service(object):
    """Takes metrics out of a pipe into a spool, and lets them be delivered from there.

    mode: of the pipe, if it has to be made anew.
    shutdown_timeout: seconds for the delivery of what waits at the end.
    """

    def __init__(self, signals, pipe, mode, spool, delivery, shutdown_timeout):
        self._signals = signals
        self._mode = mode
        self._pipe = pipe
        self._spool = spool
        self._delivery = delivery
        self._shutdown_timeout = shutdown_timeout
        self._intake = Intake(spool)
        self._child = None
        self._misplaced = False
        self.lost = False  # something in the pipe could not be kept

    def run(self, command):
        """Run until the command ends, or without one (an empty list) until a signal to stop.

        Return the exit code of the command, or None.

        Raises CommandError.
        """
        try:
            if command:
                # The daemon's own settings, secrets among them, are no business of the command.
                env = {k: v for k, v in os.environ.items() if not k.startswith("BAI_DAEMON_")}
                env[emitter.MODE] = "fifo"
                env[emitter.FIFO_PATH] = os.path.abspath(self._pipe.path)
                self._child = _started(command, env)
            self._delivery.start()
            state = EMPTY
            while not self._is_over():
                if state != MUCH:
                    self._wait(state)
                state = self._intake.take(self._pipe)
        finally:
            self._drain(self._pipe)
        self._finish()
        return None if self._child is None else self._child.returncode

    def summary(self):
        """Return what came and what became of it."""
        return {
            "received": self._intake.received,
            "delivered": self._delivery.delivered,
            "refused": self._intake.refused + self._delivery.refused,
            "waiting": self._spool.waiting(),
        }

    def _is_over(self):
        signals = self._signals.take()
        if self._delivery.failure is not None and self._child is None:
            return True
        if self._child is None:
            return bool(signals)
        for number in signals:
            # The terminal has sent these to the command as well.
            if number not in (signal.SIGINT, signal.SIGQUIT) or not _in_foreground():
                log.info("passing %s on to the command", signal.Signals(number).name)
                self._child.send_signal(number)
        return self._child.poll() is not None

    def _wait(self, state):
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if state == EMPTY:
            self._check_pipe()
            poll.register(self._pipe, select.POLLIN)
        poll.poll(_PAUSES[state] * 1000)

    def _check_pipe(self):
        if not self._pipe.is_in_place():
            try:
                new = Pipe(self._pipe.path, self._mode)
            except PipeError as error:
                if not self._misplaced:
                    self._misplaced = True
                    log.error("the pipe was removed, and cannot be made anew: %s", error)
                return
            self._misplaced = False
            log.warning("the pipe %r was removed: it was made anew", new.path)
            old, self._pipe = self._pipe, new
            self._drain(old)

    def _drain(self, pipe):
        pipe.end()
        end = time.monotonic() + self._shutdown_timeout
        state = MUCH
        while state in (MUCH, LITTLE) or (state == FULL and time.monotonic() < end):
            if state == FULL:
                time.sleep(_PAUSES[FULL])
            state = self._intake.take(pipe, at_any_size=True)
        # Of a pipe that goes on, the end of a line may be for the next daemon.
        if state == FULL or (pipe.made and not self._intake.end()):
            self.lost = True
            log.error("what is left in the pipe %r could not be kept", pipe.path)
        pipe.close()

    def _finish(self):
        self._intake.tell(now=True)
        end = time.monotonic() + self._shutdown_timeout
        self._delivery.finish()
        if self._spool.waiting():
            log.info(
                "ending: %d metrics are left to deliver, for at most %g s (SIGTERM ends that too)",
                self._spool.waiting(),
                self._shutdown_timeout,
            )
        while self._delivery.is_alive() and time.monotonic() < end:
            if set(self._signals.take()) & set(_STOPS):
                break
            self._delivery.join(0.05)
        self._delivery.stop()


def _started(command, env):
    try:
        return subprocess.Popen(command, env=env)
    except OSError as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        raise CommandError(error.strerror, code)


def _in_foreground():
    """Return whether the terminal, if there is one, sends its signals to this process."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
