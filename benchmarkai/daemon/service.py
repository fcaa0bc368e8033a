"""The life of a daemon, from the first look into the pipe to the last delivery."""

import os
import select
import time
from typing import Dict, Optional, Sequence

from benchmarkai import settings
from benchmarkai.child import Child
from benchmarkai.daemon.delivery import Delivery
from benchmarkai.daemon.intake import Flow, Intake
from benchmarkai.daemon.log import count, log
from benchmarkai.daemon.pipe import Pipe, PipeError
from benchmarkai.daemon.signals import STOP_SIGNALS, Signals
from benchmarkai.daemon.spool import Spool

# Seconds until the next look into the pipe. IDLE: between checks of the path and the delivery; new
# data ends that pause. TRICKLE: a batch costs hardly more than one metric, so let some more come.
_PAUSES = {Flow.TRICKLE: 0.02, Flow.IDLE: 1.0, Flow.BLOCKED: 0.1}


class Service:
    """Moves metrics from the pipe into the spool, while the delivery takes them from there.

    shutdown_timeout: seconds for the last deliveries.
    """

    def __init__(
        self,
        signals: Signals,
        pipe: Pipe,
        spool: Spool,
        delivery: Delivery,
        shutdown_timeout: float,
    ) -> None:
        self._signals = signals
        self._pipe = pipe
        self._spool = spool
        self._delivery = delivery
        self._shutdown_timeout = shutdown_timeout
        self._child: Optional[Child] = None
        self._reopen_failed = False
        self.intake = Intake(spool)
        self.stored = True  # whether everything in the pipe reached the spool

    def run(self, command: Sequence[str]) -> Optional[int]:
        """Run until the command ends, or without one (an empty sequence) until a signal to stop.

        Closes the pipe at the end, also one that was created again in its place.

        Returns the exit code of the command as a shell gives it, or None without one.

        Raises child.CommandError.
        """
        try:
            if command:
                self._child = self._signals.start(command, _environment(self._pipe.path))
            self._delivery.start()
            flow = Flow.IDLE
            while not self._is_over():
                if flow is not Flow.BUSY:
                    self._wait(flow)
                flow = self.intake.take(self._pipe)
        finally:
            self._drain(self._pipe)
        self._finish()
        return None if self._child is None else self._child.poll()

    def _is_over(self) -> bool:
        signals = self._signals.take()
        if self._child is None:
            return not STOP_SIGNALS.isdisjoint(signals) or self._delivery.failure is not None
        if self._child.poll() is None:
            return False
        # A signal that has ended the command and has come to the daemon too, as Ctrl-C does, is not
        # a wish to end the last deliveries.
        self._signals.take()
        return True

    def _wait(self, flow: Flow) -> None:
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if flow is Flow.IDLE:
            self._check_pipe()
            poll.register(self._pipe, select.POLLIN)
        poll.poll(_PAUSES[flow] * 1000)

    def _check_pipe(self) -> None:
        """Create the pipe again if somebody has removed it."""
        if self._pipe.is_in_place():
            return
        try:
            new = self._pipe.reopen()
        except PipeError as error:
            if not self._reopen_failed:
                self._reopen_failed = True
                log.error("the pipe was removed, and cannot be created again: %s", error)
            return
        self._reopen_failed = False
        log.warning("the pipe %r was removed: created it again", new.path)
        old, self._pipe = self._pipe, new
        self._drain(old)

    def _drain(self, pipe: Pipe) -> None:
        """Move the rest of the data into the spool, and close the pipe."""
        with pipe:
            pipe.end()
            deadline = time.monotonic() + self._shutdown_timeout
            flow = Flow.BUSY
            while flow in (Flow.BUSY, Flow.TRICKLE) or (
                flow is Flow.BLOCKED and time.monotonic() < deadline
            ):
                if flow is Flow.BLOCKED:
                    time.sleep(_PAUSES[flow])
                flow = self.intake.take(pipe, ignore_limit=True)
            # The rest of a partial line may still come to the next reader of a pipe that stays.
            if flow is Flow.BLOCKED or (pipe.created and not self.intake.end()):
                self.stored = False
                log.error("some data in the pipe %r could not be stored", pipe.path)

    def _finish(self) -> None:
        """Let the delivery send what waits, until the time-out or another signal to stop."""
        self.intake.log_rejected(now=True)
        deadline = time.monotonic() + self._shutdown_timeout
        self._delivery.finish()
        if self._spool.waiting():
            log.info(
                "stopping: %s left to deliver within %g s (SIGTERM stops at once)",
                count(self._spool.waiting(), "metric"),
                self._shutdown_timeout,
            )
        while self._delivery.is_alive() and time.monotonic() < deadline:
            if not STOP_SIGNALS.isdisjoint(self._signals.take()):
                break
            self._delivery.join(0.05)
        self._delivery.stop()


def _environment(fifo: str) -> Dict[str, str]:
    """Return the environment of a command that publishes to the pipe at the path."""
    # The daemon's own settings, which may be secrets, do not concern the command.
    env = {name: value for name, value in os.environ.items() if not name.startswith("BAI_DAEMON_")}
    env[settings.MODE] = "fifo"
    env[settings.FIFO_PATH] = os.path.abspath(fifo)
    return env
