"""How a daemon is doing: a line for its log, and a file for bai-daemon status."""

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional

from benchmarkai.daemon import database
from benchmarkai.daemon.files import replace_file

_MAX_AGE = 10.0  # seconds since a living daemon has touched the file, at most


@dataclass(frozen=True)
class Status:
    """What a daemon has done since its start, and what it has to do.

    received, delivered: numbers of metrics.
    rejected: the number of lines and metrics that were rejected for good.
    waiting: the number of metrics in the spool.
    oldest_age: seconds that the first of them has waited, or None.
    spool_bytes: the size of the spool, or None if its file is gone.
    disk_free_bytes: what its disk has left, or None if its folder is gone.
    last_error: why the last attempt to deliver failed, if it did.
    shared_times: the number of metrics that were too many for times a --time-step apart.
    """

    received: int
    delivered: int
    rejected: int
    waiting: int
    oldest_age: Optional[float]
    spool_bytes: Optional[int]
    disk_free_bytes: Optional[int]
    last_error: Optional[str]
    shared_times: int = 0

    def __str__(self) -> str:
        parts = [
            f"received {self.received}, delivered {self.delivered}, rejected {self.rejected}, "
            f"waiting {self.waiting}"
        ]
        if self.oldest_age is not None:
            parts.append(f"the oldest for {self.oldest_age:.0f} s")
        if self.spool_bytes is not None:
            parts.append(f"spool {self.spool_bytes} bytes")
        if self.disk_free_bytes is not None:
            parts.append(f"disk {self.disk_free_bytes} bytes free")
        if self.shared_times:
            parts.append(f"{self.shared_times} too many for times a step apart")
        if self.last_error is not None:
            parts.append(f"last error: {self.last_error}")
        return ", ".join(parts)


class StatusFile:
    """The file beside a spool in which its daemon tells others how it is doing."""

    def __init__(self, spool: str) -> None:
        self.path = spool + ".status"
        self._written: Optional[Status] = None

    def __enter__(self) -> "StatusFile":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def update(self, status: Status) -> None:
        """Write the status if it is a new one, and show that the daemon is alive."""
        try:
            if status != self._written:
                self._write(status)
            else:
                os.utime(self.path)
            self._written = status
        except OSError:
            # Nothing depends on the file but other people's curiosity.
            self._written = None

    def _write(self, status: Status) -> None:
        data = json.dumps({"pid": os.getpid(), **asdict(status)})
        replace_file(self.path, data.encode("ascii")).close()


def read_status(spool: str) -> Dict[str, Any]:
    """Return the status of the daemon that uses a spool, or of a spool that none uses.

    Its key "alive" says whether a daemon uses it.

    Raises database.SpoolError if there is no such spool.
    """
    path = spool + ".status"
    try:
        age = time.time() - os.stat(path).st_mtime
        with open(path) as file:
            status: Dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        age, status = _MAX_AGE + 1, {}
    alive = age <= _MAX_AGE
    if not alive:
        with contextlib.suppress(database.SpoolInUse):
            status = {"waiting": database.count_waiting(spool)}
    return {"alive": alive, **status}
