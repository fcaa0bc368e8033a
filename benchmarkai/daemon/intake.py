"""From the pipe into the spool, as fast as lines come."""

import logging
import time

from benchmarkai.daemon.lines import parse_lines
from benchmarkai.daemon.spool import SpoolFull
from benchmarkai.metrics import show
from benchmarkai.records import LONGEST

log = logging.getLogger("bai-daemon")

MUCH, LITTLE, EMPTY, FULL = "much", "little", "empty", "full"

_MUCH = 1 << 15  # bytes

_BETWEEN_SAMPLES = 1.0  # seconds between two log lines about refused lines


class Intake(object):
    """Moves what is in a pipe into a spool.

    received, refused: how many metrics, and lines, there were.
    """

    def __init__(self, spool):
        self._spool = spool
        self._was_full = False
        self._is_first = True
        self._refused = []  # (line, reason) in the file for them, while the others are not kept
        self._untold = 0  # lines refused since the last log line about them
        self._sample = None  # (line, reason) of the first of those
        self._told = 0.0
        self.received = 0
        self.refused = 0

    def take(self, pipe, at_any_size=False):
        """Move what is in the pipe; return how much that was, or FULL if it had to stay there.

        at_any_size: also where the spool is beyond its limit.
        """
        self.tell()
        try:
            if self._spool.renew():
                log.error("the spool %r was removed: it was made anew", self._spool.path)
            reason = None if at_any_size else self._spool.fullness()
        except SpoolFull as error:
            reason = error
        if reason:
            self._say_full(reason)
            return FULL
        data = pipe.peek()
        if not data:
            return EMPTY
        if self._is_first:
            self._is_first = False
            self._spool.recall(data)
        whole = self._spool.rest + data
        end = whole.rfind(b"\n") + 1
        if len(whole) - end > LONGEST:
            end = len(whole)
        if not self._keep(whole[:end], whole[end:], data):
            return FULL
        pipe.consume(data)
        if self._was_full:
            self._was_full = False
            log.info("taking metrics again")
        return MUCH if len(data) >= _MUCH else LITTLE

    def end(self):
        """Take what has come without a newline, as a line; return whether it could be kept."""
        return not self._spool.rest or self._keep(self._spool.rest, b"")

    def tell(self, now=False):
        """Log what was refused, at most once a second."""
        if self._untold and (now or time.monotonic() - self._told >= _BETWEEN_SAMPLES):
            line, reason = self._sample
            log.warning(
                "refused %d lines, the first is %s: %s: see %s",
                self._untold,
                show(line.decode("utf-8", "backslashreplace")),
                reason,
                self._spool.refused_path,
            )
            self._untold = 0
            self._told = time.monotonic()

    def _keep(self, lines, rest, data=b""):
        metrics, refused = parse_lines(lines)
        try:
            if refused and refused != self._refused:
                self._spool.refuse([_entry(line, reason) for line, reason in refused])
                self._refused = refused
            self._spool.add(metrics, rest, data)
        except SpoolFull as error:
            self._say_full(error)
            return False
        self._refused = []
        self.received += len(metrics)
        self.refused += len(refused)
        if refused:
            self._sample = self._sample if self._untold else refused[0]
            self._untold += len(refused)
        self.tell()
        return True

    def _say_full(self, reason):
        if not self._was_full:
            self._was_full = True
            log.error("%s: metrics stay in the pipe, and emitters wait, until it has room", reason)


def _entry(line, reason):
    return {
        "time": time.time_ns(),
        "line": line.decode("utf-8", "backslashreplace"),
        "reason": reason,
    }
