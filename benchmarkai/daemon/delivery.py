"""From the spool to the server, in a thread of its own, with retries."""

import threading
import time
from typing import Any, Callable, List, Optional, Sequence, Tuple, TypeVar

import tenacity

from benchmarkai.daemon.backends.base import Backend, FatalError, Rejected, Unavailable
from benchmarkai.daemon.log import count, log
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.spool import Spool, SpoolFull

_POLL_INTERVAL = 0.1  # seconds between checks whether a batch is full
_FIRST_PAUSE = 0.5  # seconds before the first retry, at most
_MAX_PAUSE = 30.0  # seconds before later retries, at most, unless the server asks for more
_LAST_PAUSE = 0.5  # seconds between retries, at most, while the daemon ends

_Result = TypeVar("_Result")


class Delivery(threading.Thread):
    """Takes batches of metrics from the spool, sends them, and removes what was accepted.

    A batch is sent when batch_size metrics wait, or flush_interval seconds after the last one.
    Leaving the context stops the thread.

    delivered, rejected: the number of metrics so far.
    failure: why the thread has ended early, if it has.
    last_error: why the last attempt failed, if it did.
    """

    def __init__(
        self, spool: Spool, backend: Backend, batch_size: int, flush_interval: float
    ) -> None:
        super().__init__(name="delivery", daemon=True)
        self._spool = spool
        self._backend = backend
        self._batch_size = min(batch_size, backend.max_batch_size or batch_size)
        self._flush_interval = flush_interval
        self._finishing = threading.Event()
        self._stopping = threading.Event()
        self.delivered = 0
        self.rejected = 0
        self.failure: Optional[str] = None
        self.last_error: Optional[str] = None

    def __enter__(self) -> "Delivery":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                batch = self._spool.oldest(self._batch_size)
                if batch:
                    self._deliver(batch)
                elif self._finishing.is_set():
                    return
                if len(batch) < self._batch_size:
                    self._wait_for_batch()
        except _Stopped:
            pass
        except Exception as error:
            self.failure = str(error)
            log.debug("delivery failed", exc_info=True)

    def finish(self) -> None:
        """End as soon as nothing waits any more, with short pauses between retries."""
        self._finishing.set()

    def stop(self) -> None:
        """End now, whatever waits."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._finishing.set()
        if self.is_alive():
            self.join(_LAST_PAUSE)

    def _wait_for_batch(self) -> None:
        deadline = time.monotonic() + self._flush_interval
        while not self._finishing.is_set() and time.monotonic() < deadline:
            waiting = self._spool.waiting()
            if waiting >= self._batch_size or (waiting and self._spool.fullness()):
                break
            self._finishing.wait(min(_POLL_INTERVAL, self._flush_interval))

    def _deliver(self, batch: Sequence[Metric]) -> None:
        accepted: List[Metric] = []
        rejected: List[Tuple[Metric, str]] = []
        for metric in batch:
            reason = self._reason_to_reject(metric)
            if reason is None:
                accepted.append(metric)
            else:
                rejected.append((metric, reason))
        if accepted:
            rejected.extend(self._send(accepted))
        if rejected:
            entries = [_entry(metric, reason) for metric, reason in rejected]
            self._retry(self._spool.reject, entries)
        self._retry(self._spool.remove, batch)
        self.delivered += len(batch) - len(rejected)
        self.rejected += len(rejected)
        if rejected:
            metric, reason = rejected[0]
            log.warning(
                "rejected %d of %s, the first is %r: %s: see %s",
                len(rejected),
                count(len(batch), "metric"),
                metric.name,
                reason,
                self._spool.rejected_path,
            )

    def _reason_to_reject(self, metric: Metric) -> Optional[str]:
        try:
            float(metric.value)
        except OverflowError:
            return "the integer is larger than a double can be (1.8e308)"
        return self._backend.reason_to_reject_labels(
            metric.labels
        ) or self._backend.reason_to_reject(metric)

    def _send(self, metrics: Sequence[Metric]) -> List[Tuple[Metric, str]]:
        """Send until the server has the metrics. Return those that it rejects, with the reason."""
        try:
            return self._retry(self._send_once, metrics)
        except Rejected as error:
            if len(metrics) == 1:
                return [(metrics[0], str(error))]
        # The server rejects one of them without saying which.
        middle = len(metrics) // 2
        return self._send(metrics[:middle]) + self._send(metrics[middle:])

    def _send_once(self, metrics: Sequence[Metric]) -> List[Tuple[Metric, str]]:
        try:
            return self._backend.send(metrics) or []
        except (Unavailable, Rejected, FatalError):
            raise
        except UnicodeError as error:  # labels from bytes in no known encoding
            raise Rejected(str(error)) from error
        except Exception as error:
            log.debug("unexpected error", exc_info=True)
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    def _retry(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        retrying = tenacity.Retrying(
            wait=_pause_before_retry,
            retry=tenacity.retry_if_exception_type((Unavailable, SpoolFull)),
            before_sleep=self._log_retry,
            sleep=self._pause,
        )
        result = retrying(function, *arguments)
        self.last_error = None
        if retrying.statistics["attempt_number"] > 1:
            log.info("delivering again")
        return result

    def _log_retry(self, retry_state: tenacity.RetryCallState) -> None:
        self.last_error = str(_error_of(retry_state))
        if self._finishing.is_set():
            return  # the log says it at the end
        log.warning(
            "cannot deliver: %s; %s waiting; next retry in %.1f s",
            self.last_error,
            count(self._spool.waiting(), "metric"),
            retry_state.next_action.sleep if retry_state.next_action else 0.0,
        )

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._finishing.wait(seconds)
        if self._finishing.is_set():
            self._stopping.wait(max(0.0, min(_LAST_PAUSE, deadline - time.monotonic())))
        if self._stopping.is_set():
            raise _Stopped()


_backoff = tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_MAX_PAUSE)


# Old versions of tenacity pass the argument by this name.
def _pause_before_retry(retry_state: tenacity.RetryCallState) -> float:
    retry_after = getattr(_error_of(retry_state), "retry_after", None) or 0.0
    return max(retry_after, _backoff(retry_state))


def _error_of(retry_state: tenacity.RetryCallState) -> Optional[BaseException]:
    return retry_state.outcome.exception() if retry_state.outcome else None


class _Stopped(Exception):
    """The daemon ends, whatever waits."""


def _entry(metric: Metric, reason: str) -> Any:
    return {
        "time": metric.time,
        "name": metric.name,
        "value": metric.value,
        "labels": metric.labels,
        "reason": reason,
    }
