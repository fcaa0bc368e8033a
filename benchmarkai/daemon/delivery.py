"""From the spool to the server, in a thread of its own, as often as it takes."""

import logging
import threading
import time

import tenacity

from benchmarkai.daemon.backends import Broken, Rejected, Unavailable
from benchmarkai.daemon.spool import SpoolFull

log = logging.getLogger("bai-daemon")

_LOOK = 0.1  # seconds between two looks whether a batch is full
_FIRST_PAUSE = 0.5  # seconds between two tries, at the most
_LONGEST_PAUSE = 30.0  # the same after many of them, if the server does not ask for more
_LAST_PAUSE = 0.5  # seconds between two tries when the daemon is about to end


class Delivery(threading.Thread):
    """Takes metrics out of the spool in batches, and removes those that the server has.

    A batch goes when batch_size metrics wait, or flush_interval seconds after the last one.
    """

    def __init__(self, spool, backend, batch_size, flush_interval):
        super(Delivery, self).__init__(name="delivery", daemon=True)
        self._spool = spool
        self._backend = backend
        self._batch_size = min(batch_size, backend.most or batch_size)
        self._flush_interval = flush_interval
        self._ending = threading.Event()
        self._over = threading.Event()
        self.delivered = 0
        self.refused = 0
        self.failure = None  # the error that ended it, if one did
        self.problem = None  # why the last try failed

    def run(self):
        try:
            while not self._over.is_set():
                batch = self._spool.oldest(self._batch_size)
                if batch:
                    self._deliver(batch)
                elif self._ending.is_set():
                    return
                if len(batch) < self._batch_size:
                    self._wait_for_batch()
        except _Over:
            pass
        except Exception as error:
            self.failure = error
            log.debug("delivery ended", exc_info=True)

    def _wait_for_batch(self):
        end = time.monotonic() + self._flush_interval
        while not self._ending.is_set() and time.monotonic() < end:
            waiting = self._spool.waiting()
            if waiting >= self._batch_size or (waiting and self._spool.full):
                break
            self._ending.wait(min(_LOOK, self._flush_interval))

    def finish(self):
        """End when nothing waits any more, with short pauses between tries."""
        self._ending.set()

    def stop(self):
        """End, whatever waits."""
        self._over.set()
        self.join(_LAST_PAUSE)

    def _deliver(self, batch):
        good, refused = [], []
        for metric in batch:
            reason = self._objection(metric)
            if reason is None:
                good.append(metric)
            else:
                refused.append((metric, reason))
        if good:
            refused.extend(self._send(good))
        if refused:
            self._keep_trying(self._spool.refuse, [_entry(*each) for each in refused])
        self._keep_trying(self._spool.remove, batch)
        self.delivered += len(batch) - len(refused)
        self.refused += len(refused)
        if refused:
            metric, reason = refused[0]
            log.warning(
                "refused %d of %d metrics, the first is %r: %s: see %s",
                len(refused),
                len(batch),
                metric.name,
                reason,
                self._spool.refused_path,
            )

    def _objection(self, metric):
        try:
            float(metric.value)
        except OverflowError:
            return "the integer is larger than a double can be (1.8e308)"
        return self._backend.objection(metric)

    def _send(self, metrics):
        """Send until the server has them; return those that it refuses, with its reasons."""
        try:
            return self._keep_trying(self._send_once, metrics) or []
        except Rejected as error:
            if len(metrics) == 1:
                return [(metrics[0], str(error))]
        # One is bad, and nobody says which.
        middle = len(metrics) // 2
        return self._send(metrics[:middle]) + self._send(metrics[middle:])

    def _send_once(self, metrics):
        try:
            return self._backend.send(metrics)
        except (Unavailable, Rejected, Broken):
            raise
        except UnicodeError as error:  # a label that came as bytes of no encoding
            failure = Rejected(str(error))
        except Exception as error:
            log.debug("unexpected", exc_info=True)
            failure = Unavailable("%s: %s" % (type(error).__name__, error))
        raise failure

    def _keep_trying(self, function, *arguments):
        retrying = tenacity.Retrying(
            wait=_pause_before_next,
            retry=tenacity.retry_if_exception_type((Unavailable, SpoolFull)),
            before_sleep=self._tell,
            sleep=self._pause,
        )
        result = retrying(function, *arguments)
        if retrying.statistics["attempt_number"] > 1:
            log.info("delivering again")
        return result

    def _tell(self, state):
        self.problem = state.outcome.exception()
        if self._ending.is_set():
            return  # what it says at the end is enough
        log.warning(
            "cannot deliver: %s; %d metrics wait; next try in %.1f s",
            self.problem,
            self._spool.waiting(),
            state.next_action.sleep,
        )

    def _pause(self, seconds):
        end = time.monotonic() + seconds
        self._ending.wait(seconds)
        if self._ending.is_set():
            self._over.wait(max(0.0, min(_LAST_PAUSE, end - time.monotonic())))
        if self._over.is_set():
            raise _Over()


_jitter = tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE)


def _pause_before_next(state):
    return max(state.outcome.exception().retry_after or 0.0, _jitter(state))


class _Over(Exception):
    """The daemon ends, whatever waits."""


def _entry(metric, reason):
    return {
        "time": metric.time,
        "name": metric.name,
        "value": metric.value,
        "labels": metric.labels,
        "reason": reason,
    }
