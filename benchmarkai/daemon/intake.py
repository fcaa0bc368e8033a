"""From the pipe into the spool."""

import enum
from typing import List, Optional

from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.decode import RejectedLine, decode
from benchmarkai.daemon.log import RejectionLog, log
from benchmarkai.daemon.pipe import Pipe
from benchmarkai.daemon.rejects import line_entry
from benchmarkai.daemon.spool import Spool, SpoolFull
from benchmarkai.errors import short_repr
from benchmarkai.jsonlines import MAX_RECORD_SIZE

_BUSY_SIZE = 1 << 15  # bytes


class Flow(enum.Enum):
    """How much a look into the pipe has found."""

    BUSY = "so much that there is probably more"
    TRICKLE = "a little"
    IDLE = "nothing"
    BLOCKED = "nothing was taken, because the spool has no room"


class Intake:
    """Moves data from a pipe into the journal of a spool, and makes metrics of its lines.

    received: the number of metrics stored so far.
    rejected: the number of lines rejected so far.
    """

    def __init__(self, spool: Spool, clock: Optional[Clock] = None) -> None:
        self._spool = spool
        self._clock = clock or Clock()
        self._blocked = False
        self._homeless = False  # whether the files of the spool are gone for now
        self._recorded: List[RejectedLine] = []  # in the file, though their data is not stored yet
        self.rejections = RejectionLog("line", spool.rejects.path, self._clock)
        self.received = 0
        self.rejected = 0

    def take(self, pipe: Pipe, ignore_limit: bool = False) -> Flow:
        """Move the data that is in the pipe into the spool.

        ignore_limit: accept it although the spool has reached its limit.
        """
        self.rejections.flush()
        self._restore_files()
        try:
            if not ignore_limit:
                self._spool.free_disk_space()
                reason = self._spool.fullness()
                if reason is not None:
                    return self._block(reason)
            # Take no more while there is something that cannot be stored.
            stored = self._store_lines()
            size = self._spool.receive(pipe)
            stored |= self._store_lines()
        except SpoolFull as error:
            return self._block(str(error))
        if self._blocked:
            self._blocked = False
            log.info("accepting metrics again")
        if size >= _BUSY_SIZE:
            return Flow.BUSY
        return Flow.TRICKLE if size or stored else Flow.IDLE

    def recover(self) -> None:
        """Store the lines that an earlier process has read but not stored.

        Raises SpoolFull.
        """
        self._store_lines()

    def end(self) -> bool:
        """Treat a partial line as a whole one. Return whether everything could be stored."""
        try:
            self._store_lines(all_of_them=True)
        except SpoolFull as error:
            self._block(str(error))
            return False
        return True

    def _restore_files(self) -> None:
        try:
            if self._spool.restore_files():
                self._homeless = False
                log.error("the spool %r was removed: created it again", self._spool.path)
        except SpoolFull as error:
            if not self._homeless:
                self._homeless = True
                log.error(
                    "%s: until it can be created again, metrics that cannot be delivered are lost "
                    "when this daemon ends",
                    error,
                )

    def _store_lines(self, all_of_them: bool = False) -> bool:
        """Store the whole lines of the journal. Return whether there were any."""
        pending = self._spool.pending()
        end = pending.rfind(b"\n") + 1
        if all_of_them or len(pending) - end > MAX_RECORD_SIZE:
            end = len(pending)
        if not end:
            return False
        pairs, rejected = decode(pending[:end])
        if rejected and rejected != self._recorded:
            now = self._clock.time()
            self._spool.reject([line_entry(*line, now) for line in rejected])
            self._recorded = rejected
        self._spool.add(pairs, end)
        self._recorded = []
        self.received += len(pairs)
        self.rejected += len(rejected)
        if rejected:
            line, reason = rejected[0]
            text = short_repr(line.decode("utf-8", "backslashreplace"))
            self.rejections.add(len(rejected), text, reason)
        return True

    def _block(self, reason: str) -> Flow:
        if not self._blocked:
            self._blocked = True
            log.error("%s: metrics stay in the pipe, and emitters block until it has room", reason)
        return Flow.BLOCKED
