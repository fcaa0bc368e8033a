"""From the pipe into the spool."""

import enum
import time
from typing import Any, List, Mapping, Optional

from benchmarkai.daemon.decode import RejectedLine, decode
from benchmarkai.daemon.log import count, log
from benchmarkai.daemon.pipe import Pipe
from benchmarkai.daemon.spool import Spool, SpoolFull
from benchmarkai.errors import short_repr
from benchmarkai.jsonlines import MAX_RECORD_SIZE

_BUSY_SIZE = 1 << 15  # bytes
_LOG_INTERVAL = 1.0  # seconds between log lines about rejected lines


class Flow(enum.Enum):
    """How much a look into the pipe has found."""

    BUSY = "so much that there is probably more"
    TRICKLE = "a little"
    IDLE = "nothing"
    BLOCKED = "nothing was taken, because the spool has no room"


class Intake:
    """Moves data from a pipe into a spool.

    received: the number of metrics stored so far.
    rejected: the number of lines rejected so far.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._blocked = False
        self._first = True
        self._recorded: List[RejectedLine] = []  # in the file, though their data is not stored yet
        self._unlogged = 0  # lines rejected since the last log line about them
        self._sample: Optional[RejectedLine] = None  # the first of those
        self._last_logged = 0.0
        self.received = 0
        self.rejected = 0

    def take(self, pipe: Pipe, ignore_limit: bool = False) -> Flow:
        """Move the data that is in the pipe into the spool.

        ignore_limit: accept it although the spool has reached its limit.
        """
        self.log_rejected()
        try:
            if self._spool.restore_file():
                log.error("the spool %r was removed: created it again", self._spool.path)
        except SpoolFull as error:
            return self._block(str(error))
        if not ignore_limit:
            self._spool.free_disk_space()
            reason = self._spool.fullness()
            if reason is not None:
                return self._block(reason)
        data = pipe.peek()
        if not data:
            return Flow.IDLE
        if self._first:
            self._first = False
            self._spool.recover_partial_line(data)
        buffered = self._spool.partial_line + data
        end = buffered.rfind(b"\n") + 1
        if len(buffered) - end > MAX_RECORD_SIZE:
            end = len(buffered)
        if not self._store(buffered[:end], buffered[end:], data):
            return Flow.BLOCKED
        pipe.consume(data)
        if self._blocked:
            self._blocked = False
            log.info("accepting metrics again")
        return Flow.BUSY if len(data) >= _BUSY_SIZE else Flow.TRICKLE

    def end(self) -> bool:
        """Treat the partial line as a whole one. Return whether it could be stored."""
        return not self._spool.partial_line or self._store(self._spool.partial_line, b"")

    def log_rejected(self, now: bool = False) -> None:
        """Log which lines were rejected, at most once a second unless now is true."""
        due = now or time.monotonic() - self._last_logged >= _LOG_INTERVAL
        if self._sample is not None and due:
            log.warning(
                "rejected %s, the first is %s: %s: see %s",
                count(self._unlogged, "line"),
                short_repr(self._sample.line.decode("utf-8", "backslashreplace")),
                self._sample.reason,
                self._spool.rejected_path,
            )
            self._unlogged = 0
            self._sample = None
            self._last_logged = time.monotonic()

    def _store(self, lines: bytes, partial_line: bytes, data: bytes = b"") -> bool:
        pairs, rejected = decode(lines)
        try:
            if rejected and rejected != self._recorded:
                self._spool.reject([_entry(line) for line in rejected])
                self._recorded = rejected
            self._spool.add(pairs, partial_line, data)
        except SpoolFull as error:
            self._block(str(error))
            return False
        self._recorded = []
        self.received += len(pairs)
        self.rejected += len(rejected)
        if rejected:
            self._sample = self._sample or rejected[0]
            self._unlogged += len(rejected)
        self.log_rejected()
        return True

    def _block(self, reason: str) -> Flow:
        if not self._blocked:
            self._blocked = True
            log.error("%s: metrics stay in the pipe, and emitters block until it has room", reason)
        return Flow.BLOCKED


def _entry(rejected: RejectedLine) -> Mapping[str, Any]:
    return {
        "time": time.time_ns(),
        "line": rejected.line.decode("utf-8", "backslashreplace"),
        "reason": rejected.reason,
    }
