"""From the spool to the server, with retries."""

import math
import random
import sys
import threading
from collections import deque
from functools import partial
from typing import Callable, Deque, List, Mapping, Optional, Sequence

from benchmarkai.daemon.backends.base import Answer, Backend, FatalError, Rejected, Unavailable
from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.log import RejectionLog, count, log
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.redaction import redact
from benchmarkai.daemon.rejects import batch_entry, metric_entry
from benchmarkai.daemon.series import NameLabels, SeriesCache
from benchmarkai.daemon.spool import Spool, SpoolFull

_FIRST_PAUSE = 0.5  # seconds before the first retry, at most
_MAX_PAUSE = 30.0  # seconds before later retries, at most, unless the server asks for more
_LAST_PAUSE = 0.5  # seconds between retries, at most, while the daemon ends

_MAX_FLOAT = sys.float_info.max
_TOO_LARGE = "the integer is larger than a double can be (1.8e308)"

# How many metrics are tried one by one at a server that has not accepted any metric yet.
_PROBES = 8


class Delivery:
    """Takes batches of metrics from the spool, sends them, and removes what was accepted.

    A batch is sent when batch_size metrics wait, or when the first of them has waited for
    flush_interval seconds, or up to half as long: daemons that were started together do not send
    together. If the server rejects a batch without saying which metric is bad, its halves are
    sent, and so on. Each part is removed from the spool as soon as the server has answered.

    name_labels: whether a name that ends in labels is read as a name and labels.

    A server that has not accepted any metric yet may be the wrong one, or have been given the
    wrong password. What it rejects stays in the spool, and is sent again.

    delivered, rejected: the number of metrics so far.
    last_error: why the last attempt failed, if it did.
    """

    def __init__(
        self,
        spool: Spool,
        backend: Backend,
        batch_size: int,
        flush_interval: float,
        clock: Optional[Clock] = None,
        name_labels: bool = True,
    ) -> None:
        self._spool = spool
        self._name_labels = NameLabels() if name_labels else None
        self._backend = backend
        self._reasons_of_series = SeriesCache(self._reason_to_reject_series)
        self._batch_size = min(batch_size, backend.max_batch_size or batch_size)
        self._flush_interval = flush_interval
        self._clock = clock or Clock()
        self._finishing = False
        self._flush_at: Optional[float] = -math.inf  # what an earlier daemon has left goes at once
        self._parts: List[Sequence[Metric]] = []  # the next one to send is the last
        self._is_left = False  # whether that is the left half of a part that was rejected
        self._is_bad = False  # whether it is a right half, and all of the left one was accepted
        self._is_proven = False  # whether the server has accepted a metric
        self._is_probing = False  # whether the parts are there to prove it
        self._unrecorded: Deque[Callable[[], None]] = deque()  # changes that the spool lacks
        self._failures = 0  # in a row
        self._failed_at = 0.0
        self._pause = 0.0  # seconds after that
        self._logged_error: Optional[str] = None
        self._rejections = RejectionLog("metric", spool.rejects.path, self._clock)
        self.delivered = 0
        self.rejected = 0
        self.last_error: Optional[str] = None

    def has_batch(self) -> bool:
        """Return whether as many metrics wait as are sent at once."""
        return self._spool.waiting() >= self._batch_size

    def finish(self) -> None:
        """Send at once what waits, with short pauses between retries."""
        self._finishing = True

    def step(self) -> Optional[float]:
        """Do what is due: at most one request.

        Returns the seconds until the next step (infinity if nothing waits), or None after
        finish(), once nothing waits. New metrics may make a step due earlier.

        Raises FatalError.
        """
        pause = self._pause_before_retry()
        if pause > 0:
            return pause
        try:
            if self._unrecorded:
                self._record()
                self._note_success()
            elif self._parts:
                self._send(self._parts[-1])
            else:
                return self._take_batch()
        except (Unavailable, SpoolFull) as error:
            return self._note_failure(error)
        return 0.0

    def _take_batch(self) -> Optional[float]:
        """Make the next batch the only part. Returns as step() does."""
        self._rejections.flush(now=True)
        waiting = self._spool.waiting()
        if not waiting:
            self._flush_at = None
            return None if self._finishing else math.inf
        now = self._clock.monotonic()
        if self._flush_at is None:
            self._flush_at = now + self._flush_interval * random.uniform(0.5, 1.0)
        if (
            not self.has_batch()
            and now < self._flush_at
            and not self._finishing
            and not self._failures
            and not self._spool.fullness()
        ):
            return self._flush_at - now
        self._flush_at = None
        batch = self._read_names(self._spool.oldest(self._batch_size))
        self._is_left = self._is_bad = False
        accepted = self._reject_locally(batch)
        if accepted:
            self._parts.append(accepted)
        self._record()
        return 0.0

    def _read_names(self, metrics: Sequence[Metric]) -> Sequence[Metric]:
        return metrics if self._name_labels is None else self._name_labels.read(metrics)

    def _reject_locally(self, batch: Sequence[Metric]) -> Sequence[Metric]:
        """Reject what the server cannot hold, without asking it. Return the others."""
        reasons = self._reasons_to_reject(batch)
        if not any(reasons):
            return batch
        rejected = [(metric, reason) for metric, reason in zip(batch, reasons) if reason]
        self._settle([metric for metric, _ in rejected], Answer(rejected))
        return [metric for metric, reason in zip(batch, reasons) if not reason]

    def _reasons_to_reject(self, metrics: Sequence[Metric]) -> Sequence[Optional[str]]:
        reasons = self._reasons_of_series.of_each(metrics)
        reason_to_reject = self._backend.reason_to_reject
        return [
            reason
            or (
                reason_to_reject(metric)
                if -_MAX_FLOAT <= metric.value <= _MAX_FLOAT
                else _TOO_LARGE
            )
            for metric, reason in zip(metrics, reasons)
        ]

    def _reason_to_reject_series(self, name: str, labels: Mapping[str, str]) -> Optional[str]:
        try:
            "".join([*labels, *labels.values()]).encode("utf-8")
        except UnicodeEncodeError:
            return "a label has half a character (a lone surrogate)"
        backend = self._backend
        return backend.reason_to_reject_labels(labels) or backend.reason_to_reject_name(name)

    def _send(self, part: Sequence[Metric]) -> None:
        """Send the last of the parts, and go on by the answer."""
        if self._is_bad and len(part) > 1:
            self._split()
            return
        try:
            answer = self._backend.send(part) or Answer()
            not_accepted = len(answer.rejected) + len(answer.postponed) + answer.unidentified
            self._is_proven = self._is_proven or not_accepted < len(part)
            if answer.postponed and (not self._is_proven or len(answer.postponed) == len(part)):
                raise Unavailable(answer.reason, answer.retry_after)
            if len(answer.rejected) == len(part) and not self._is_proven:
                raise Rejected(answer.rejected[0][1])
        except (Unavailable, FatalError):
            raise
        except Rejected as error:
            if not self._is_proven:
                self._probe(part, str(error))
                return
            if len(part) > 1:
                self._split()
                return
            answer = Answer([(part[0], str(error))])
        except Exception as error:
            log.debug("unexpected error", exc_info=True)
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        self._is_bad = self._is_left and not any(answer)
        self._is_left = False
        self._parts.pop()
        if self._is_probing:
            self._is_probing = False
            self._parts.clear()
        if answer.postponed:
            self._parts.append(answer.postponed)
            postponed = {metric.sequence for metric in answer.postponed}
            part = [metric for metric in part if metric.sequence not in postponed]
        self._settle(part, answer)
        self._record()
        if answer.postponed and answer.reason:
            raise Unavailable(answer.reason, answer.retry_after)
        self._note_success()

    def _split(self) -> None:
        """Replace the last of the parts by its halves."""
        part = self._parts.pop()
        middle = len(part) // 2
        self._parts += [part[middle:], part[:middle]]
        self._is_left = True
        self._is_bad = False

    def _probe(self, part: Sequence[Metric], reason: str) -> None:
        """Look for a metric that the server accepts, as it has rejected all so far."""
        if self._is_probing:
            self._parts.pop()
        else:
            self._is_probing = True
            metrics = list(reversed(self._read_names(self._spool.sample(_PROBES))))
            reasons = self._reasons_to_reject(metrics)
            probes = [[metric] for metric, reason in zip(metrics, reasons) if not reason]
            self._parts = [probe for probe in probes if probe != part]
        if not self._parts:
            self._is_probing = False
            raise Unavailable(
                f"{reason} (the server has not accepted any metric yet, so this may be a mistake "
                "in the options: all metrics are kept)"
            )

    def _settle(self, part: Sequence[Metric], answer: Answer) -> None:
        """Note what the spool has to record about metrics that are done with."""
        if answer.unidentified == len(part):
            answer = Answer([(metric, answer.reason) for metric in part])
        entries = [metric_entry(metric, reason) for metric, reason in answer.rejected]
        if answer.unidentified:
            entries.append(batch_entry(part, answer.unidentified, answer.reason))
        if entries:
            self._unrecorded.append(partial(self._spool.reject, entries))
        self._unrecorded.append(partial(self._spool.remove, part))
        self._unrecorded.append(partial(self._count, part, answer))

    def _count(self, part: Sequence[Metric], answer: Answer) -> None:
        rejected = len(answer.rejected) + answer.unidentified
        self.delivered += len(part) - rejected
        self.rejected += rejected
        for metric, reason in answer.rejected[:1]:
            self._rejections.add(len(answer.rejected), repr(metric.name), reason)
        if answer.unidentified:
            self._rejections.add(
                answer.unidentified,
                f"one of the {count(len(part), 'metric')} from {part[0].name!r} on",
                answer.reason,
            )

    def _record(self) -> None:
        while self._unrecorded:
            self._unrecorded[0]()
            self._unrecorded.popleft()

    def _note_success(self) -> None:
        if self._failures:
            log.info("delivering again")
        self._failures = 0
        self._logged_error = self.last_error = None

    def _pause_before_retry(self) -> float:
        """Return the seconds until the next attempt after a failure; at most 0 if it is due."""
        if not self._failures:
            return 0.0
        longest = _LAST_PAUSE if self._finishing else math.inf
        return self._failed_at + min(self._pause, longest) - self._clock.monotonic()

    def _note_failure(self, error: Exception) -> float:
        """Return the pause before the next attempt."""
        # A server that asks for a pause may ask many daemons, which must not come back together.
        wanted = getattr(error, "retry_after", None) or 0.0
        self._pause = wanted + random.uniform(0, max(wanted / 2, _longest_pause(self._failures)))
        self._failures += 1
        self._failed_at = self._clock.monotonic()
        pause = self._pause_before_retry()
        self.last_error = redact(str(error))
        # While the daemon ends, retries come every half second, and the end is logged anyway.
        if not self._finishing or self.last_error != self._logged_error:
            self._logged_error = self.last_error
            log.warning(
                "cannot deliver: %s; %s waiting; %s",
                self.last_error,
                count(self._spool.waiting(), "metric"),
                f"next retry in {pause:.1f} s" if pause >= 0.05 else "retrying at once",
            )
        return pause


class DeliveryThread(threading.Thread):
    """Makes the steps of a delivery when they are due. Leaving the context stops it.

    delivery: the delivery.
    failure: why the thread has ended early, if it has.
    """

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(name="delivery", daemon=True)
        self.delivery = delivery
        self._condition = threading.Condition()
        self._has_news = False
        self._is_idle = False  # whether it waits for news alone
        self._stopping = False
        self.failure: Optional[str] = None

    def __enter__(self) -> "DeliveryThread":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def run(self) -> None:
        try:
            while not self._stopping:
                pause = self.delivery.step()
                if pause is None:
                    return
                self._wait(pause)
        except Exception as error:
            self.failure = str(error)
            log.debug("delivery failed", exc_info=True)

    def notify(self, urgent: bool = True) -> None:
        """Tell it about new metrics.

        urgent: whether they may make a step due earlier than the one that it waits for.
        """
        with self._condition:
            self._has_news = True
            if urgent or self._is_idle:
                self._condition.notify()

    def finish(self) -> None:
        """End as soon as nothing waits any more."""
        self.delivery.finish()
        self.notify()

    def stop(self) -> None:
        """End now, whatever waits."""
        if self._stopping:
            return
        self._stopping = True
        self.notify()
        if self.is_alive():
            self.join(_LAST_PAUSE)

    def _wait(self, seconds: float) -> None:
        with self._condition:
            self._is_idle = seconds == math.inf
            if not self._has_news:
                self._condition.wait(min(seconds, threading.TIMEOUT_MAX))
            self._has_news = False


def _longest_pause(failures: int) -> float:
    """Return the longest pause in seconds, after so many failures before this one."""
    return min(_MAX_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures, 10))
