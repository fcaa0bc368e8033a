"""The life of a daemon, from the first look into the pipe to the last delivery."""

import contextlib
import os
import signal
from typing import Callable, Dict, List, Optional, Sequence

from benchmarkai import settings
from benchmarkai.child import Child
from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.delivery import DeliveryThread
from benchmarkai.daemon.files import make_folder
from benchmarkai.daemon.intake import Flow, Intake
from benchmarkai.daemon.log import count, log
from benchmarkai.daemon.outcome import Outcome
from benchmarkai.daemon.pipe import Pipe, PipeError
from benchmarkai.daemon.signals import STOP_SIGNALS, Signals
from benchmarkai.daemon.spool import Spool, SpoolFull
from benchmarkai.daemon.status import Status, StatusFile

# Seconds until the next look into the pipe. IDLE: new data ends that pause. TRICKLE: a batch costs
# hardly more than one metric, so let some more come.
_PAUSES = {Flow.TRICKLE: 0.05, Flow.IDLE: 1.0, Flow.BLOCKED: 0.1}

_CHECK_INTERVAL = 1.0  # seconds between looks at the path of the pipe
_FINISH_PAUSE = 0.05  # seconds between looks at the last deliveries


class Service:
    """Moves metrics from the pipe into the spool, while the delivery takes them from there.

    shutdown_timeout: seconds for the last deliveries. With a command, they count from the last
        progress.
    status_interval: seconds between log lines with the status, as long as there is news; 0 for
        none.
    before_finish: called when the pipe is empty and closed.
    """

    def __init__(
        self,
        signals: Signals,
        pipe: Pipe,
        spool: Spool,
        intake: Intake,
        thread: DeliveryThread,
        clock: Clock,
        shutdown_timeout: float,
        status_interval: float,
        before_finish: Callable[[], None] = lambda: None,
    ) -> None:
        self._signals = signals
        self._pipe = pipe
        self._spool = spool
        self._intake = intake
        self._thread = thread
        self._delivery = thread.delivery
        self._status_file = StatusFile(spool.path)
        self._shutdown_timeout = shutdown_timeout
        self._status_interval = status_interval
        self._clock = clock
        self._before_finish = before_finish
        self._child: Optional[Child] = None
        self._reopen_failed = False
        self._next_check = 0.0
        self._next_status = clock.monotonic() + status_interval
        self._logged_news: object = (0, 0, 0, None)
        self.stored = True  # whether everything in the pipe reached the spool

    def run(self, command: Sequence[str]) -> Optional[int]:
        """Run until the command ends, or without one (an empty sequence) until a signal to stop.

        Closes the pipe at the end, also one that was created again in its place.

        Returns the exit code of the command as a shell gives it, or None without one.

        Raises child.CommandError.
        """
        with self._status_file:
            try:
                if command:
                    self._child = self._signals.start(command, _environment(self._pipe.path))
                self._thread.start()
                flow = Flow.IDLE
                while not self._is_over():
                    if self._is_time_to_check():
                        self._check_pipe()
                        self._show_status()
                    if flow is not Flow.BUSY:
                        self._wait(flow)
                    flow = self._take(self._pipe)
            finally:
                self._drain(self._pipe)
            self._finish()
        return None if self._child is None else self._child.poll()

    def status(self) -> Status:
        oldest = size = None
        with contextlib.suppress(SpoolFull):  # its file is gone for now
            oldest, size = self._spool.oldest_time(), self._spool.size()
        age = None if oldest is None else max(0.0, (self._clock.time() - oldest) / 1e9)
        return Status(
            received=self._intake.received,
            delivered=self._delivery.delivered,
            rejected=self._intake.rejected + self._delivery.rejected,
            waiting=self._spool.waiting(),
            oldest_age=age,
            spool_bytes=size,
            disk_free_bytes=self._spool.disk_free(),
            last_error=self._delivery.last_error,
            shared_times=self._spool.shared_times(),
        )

    def outcome(self, command_code: Optional[int]) -> Outcome:
        """Return what has become of the metrics.

        command_code: the exit code of the command, also if it could not be started.
        """
        return Outcome(
            received=self._intake.received,
            delivered=self._delivery.delivered,
            rejected=self._intake.rejected + self._delivery.rejected,
            waiting=self._spool.waiting(),
            spool=self._spool.path,
            kept=self._spool.exists(),
            stored=self.stored,
            failure=self._thread.failure,
            last_error=self._delivery.last_error,
            command_code=command_code,
        )

    def _is_over(self) -> bool:
        signals = self._take_signals()
        if self._child is None:
            stops = STOP_SIGNALS.intersection(signals)
            for number in stops:
                log.info("stopping after %s", signal.Signals(number).name)
            return bool(stops) or self._thread.failure is not None
        if self._child.poll() is None:
            return False
        # A signal that has ended the command and has come to the daemon too, as Ctrl-C does, is not
        # a wish to end the last deliveries.
        self._signals.take()
        return True

    def _take_signals(self) -> List[int]:
        signals = self._signals.take()
        if signal.SIGUSR1 in signals:
            log.info("%s", self.status())
        return signals

    def _wait(self, flow: Flow) -> None:
        sources = [self._signals, self._pipe] if flow is Flow.IDLE else [self._signals]
        self._clock.wait(_PAUSES[flow], *sources)

    def _take(self, pipe: Pipe, ignore_limit: bool = False) -> Flow:
        before = self._intake.received
        flow = self._intake.take(pipe, ignore_limit)
        if self._intake.received != before or flow is Flow.BLOCKED:
            self._thread.notify(urgent=flow is Flow.BLOCKED or self._delivery.has_batch())
        return flow

    def _is_time_to_check(self) -> bool:
        now = self._clock.monotonic()
        if now < self._next_check:
            return False
        self._next_check = now + _CHECK_INTERVAL
        return True

    def _show_status(self) -> None:
        """Write the status to its file, and to the log if it is time to."""
        now = self._clock.monotonic()
        status = self.status()
        self._status_file.update(status)
        news = (status.received, status.delivered, status.rejected, status.last_error)
        if self._status_interval and now >= self._next_status and news != self._logged_news:
            self._next_status = now + self._status_interval
            self._logged_news = news
            log.info("%s", status)

    def _check_pipe(self) -> None:
        """Create the pipe again if somebody has removed it."""
        if self._pipe.is_in_place():
            return
        try:
            make_folder(self._pipe.path)
            new = self._pipe.reopen()
        except (PipeError, OSError) as error:
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
            is_last = pipe.end()
            deadline = self._clock.monotonic() + self._shutdown_timeout
            flow = Flow.BUSY
            while flow in (Flow.BUSY, Flow.TRICKLE) or (
                flow is Flow.BLOCKED and self._clock.monotonic() < deadline
            ):
                if flow is Flow.BLOCKED:
                    self._clock.wait(_PAUSES[flow])
                flow = self._take(pipe, ignore_limit=True)
            # The rest of a partial line may still come to the next reader of a pipe that stays.
            if flow is Flow.BLOCKED or (is_last and not self._intake.end()):
                self.stored = False
                log.error("some data in the pipe %r could not be stored", pipe.path)

    def _finish(self) -> None:
        """Let the delivery send what waits, until the time-out or another signal to stop."""
        self._intake.rejections.flush(now=True)
        self._before_finish()
        self._thread.finish()
        progress = self._progress()
        deadline = self._clock.monotonic() + self._shutdown_timeout
        if self._spool.waiting():
            log.info(
                "stopping: %s left to deliver within %g s (SIGTERM stops at once)",
                count(self._spool.waiting(), "metric"),
                self._shutdown_timeout,
            )
        while self._thread.is_alive():
            stops = STOP_SIGNALS.intersection(self._take_signals())
            if stops:
                log.info("stopping now after %s", signal.Signals(min(stops)).name)
                break
            if self._is_time_to_check():
                self._show_status()
            now = self._clock.monotonic()
            if self._child is not None and self._progress() != progress:
                progress = self._progress()
                deadline = now + self._shutdown_timeout
            if now >= deadline:
                log.error(
                    "stopping now: %s %g s: raise --shutdown-timeout to wait longer",
                    "nothing was delivered for" if self._child else "delivering took longer than",
                    self._shutdown_timeout,
                )
                break
            self._clock.wait(_FINISH_PAUSE, self._signals)
        self._thread.stop()

    def _progress(self) -> int:
        return self._delivery.delivered + self._delivery.rejected


def _environment(fifo: str) -> Dict[str, str]:
    """Return the environment of a command that publishes to the pipe at the path."""
    # The daemon's own settings, which may be secrets, do not concern the command.
    env = {name: value for name, value in os.environ.items() if not name.startswith("BAI_DAEMON_")}
    env[settings.MODE] = "fifo"
    env[settings.FIFO_PATH] = os.path.abspath(fifo)
    return env
