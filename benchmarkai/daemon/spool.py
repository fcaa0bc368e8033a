"""The spool: a queue on disk in which metrics wait until the server has accepted them."""

import contextlib
import errno
import hashlib
import json
import os
import sqlite3
import stat
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from benchmarkai.daemon import database
from benchmarkai.daemon.metric import Metric, Value
from benchmarkai.stdout import write_all

# Bytes of the disk that are left free: removing metrics takes some space before it frees any.
_RESERVED = 16 << 20

# SQLite has no integers beyond these. They are stored as text.
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1

_MAX_PARAMETERS = 999  # of a statement, in every version of SQLite
_MAX_FREE_PAGES = 1000  # of the database, before they are given back to the file system


class SpoolFull(Exception):
    """There is no room at the moment, in the spool or on its disk."""


class Spool:
    """Keeps metrics in order, with their times and labels, across crashes and restarts.

    path: the path of the database. SQLite keeps its own files beside it; PATH.refused contains
        what was rejected, one JSON object a line.
    labels: the labels of metrics that are added from now on. Those in the spool keep theirs.
    limit: the maximum size of the database in bytes; fullness() tells when it is reached.
    clock: returns nanoseconds since 1970.

    Once add() has returned, the metrics survive the death of the process; if the system crashes,
    its last moments may be lost (SQLite's WAL mode with synchronous=NORMAL). Threads may share a
    spool.

    Raises database.SpoolError for a file that cannot be used.
    """

    def __init__(
        self,
        path: str,
        labels: Mapping[str, str],
        limit: int,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self.rejected_path = path + ".refused"
        self.partial_line = b""  # bytes after the last newline in the pipe
        self._limit = limit
        self._clock = clock
        self._lock = threading.RLock()
        self._labels_json = json.dumps(labels, sort_keys=True)
        self.corrupt_path = database.open_database(path, clock, self._load)

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _load(self, connection: sqlite3.Connection) -> None:
        self._database = connection
        with self._database:
            self._database.execute(
                "INSERT OR IGNORE INTO labels (json) VALUES (?)", (self._labels_json,)
            )
        self._labels = self._one("SELECT id FROM labels WHERE json = ?", self._labels_json)[0]
        self._waiting: int = self._one("SELECT count(*) FROM metrics")[0]
        (
            self._id,
            self._last_time,
            self.partial_line,
            self._previous_partial_line,
            self._stored_size,
            self._stored_digest,
        ) = self._one("SELECT id, last, rest, before, size, digest FROM state")

    def restore_file(self) -> bool:
        """Create the database file again if somebody has removed it. Return whether it was so.

        Raises SpoolFull if it cannot be created.
        """
        if os.path.exists(self.path):
            return False
        with self._lock:
            old_umask = os.umask(0o077)
            try:
                self._database.execute("VACUUM INTO ?", (self.path,))
                self._database.close()
                for suffix in ("-wal", "-shm"):
                    if os.path.exists(self.path + suffix):
                        os.unlink(self.path + suffix)
                self._load(database.connect(self.path))
            except (sqlite3.Error, OSError) as error:
                raise SpoolFull(f"the spool {self.path!r} was removed: {error}") from error
            finally:
                os.umask(old_umask)
        return True

    def recover_partial_line(self, data: bytes) -> None:
        """Undo the last partial line if this data was already stored before a crash.

        To be called with the first bytes read from the pipe. If the process was killed between
        add() and taking its data out of the pipe, the data is read again, and must not be joined
        to its own end.
        """
        stored = data[: self._stored_size]
        if self._stored_size and hashlib.sha256(stored).digest() == self._stored_digest:
            self.partial_line = self._previous_partial_line
        self._stored_size = 0

    def add(
        self, pairs: Sequence[Tuple[str, Value]], partial_line: bytes = b"", data: bytes = b""
    ) -> None:
        """Store the metrics, and the partial line that follows them.

        pairs: the (name, value) of each metric.
        data: the bytes read from the pipe, for recover_partial_line().

        Raises SpoolFull, and then has stored nothing.
        """
        with self._lock:
            moment = max(self._last_time, self._clock())
            rows = []
            for name, value in pairs:
                moment += 1
                stored: Any = value
                if not isinstance(value, float) and not _MIN_INTEGER <= value <= _MAX_INTEGER:
                    stored = str(value)
                rows.append((moment, name, stored, self._labels))
            last_time = moment if rows else self._last_time
            state: Tuple[Any, ...] = (last_time, partial_line, b"", 0, b"")
            if partial_line or self.partial_line:
                digest = hashlib.sha256(data).digest()
                state = (last_time, partial_line, self.partial_line, len(data), digest)
            with self._transaction():
                self._database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", rows)
                self._database.execute(
                    "UPDATE state SET last = ?, rest = ?, before = ?, size = ?, digest = ?", state
                )
            self._last_time = last_time
            self.partial_line = partial_line
            self._waiting += len(rows)

    def oldest(self, count: int) -> List[Metric]:
        """Return up to `count` of the metrics that have waited longest, in order."""
        with self._lock:
            rows = self._database.execute(
                "SELECT time, name, value, ifnull(json, '{}') FROM metrics "
                "LEFT JOIN labels ON labels = id ORDER BY time LIMIT ?",
                (count,),
            ).fetchall()
        parsed: Dict[str, Mapping[str, str]] = {}
        metrics = []
        for moment, name, value, labels in rows:
            if labels not in parsed:
                parsed[labels] = json.loads(labels)
            if isinstance(value, str):
                value = int(value)
            metrics.append(Metric(f"{self._id}-{moment}", moment, name, value, parsed[labels]))
        return metrics

    def remove(self, metrics: Sequence[Metric]) -> None:
        """Remove these metrics.

        Raises SpoolFull if the disk has no room to record it.
        """
        with self._lock:
            removed = 0
            with self._transaction():
                for start in range(0, len(metrics), _MAX_PARAMETERS):
                    times = [metric.time for metric in metrics[start : start + _MAX_PARAMETERS]]
                    marks = ",".join("?" * len(times))
                    removed += self._database.execute(
                        f"DELETE FROM metrics WHERE time IN ({marks})", times
                    ).rowcount
            self._waiting -= removed
            if self._one("PRAGMA freelist_count")[0] > _MAX_FREE_PAGES:
                self._free(f"incremental_vacuum({_MAX_FREE_PAGES})")

    def reject(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Append the entries to the file of what was rejected, as lines of JSON.

        Raises SpoolFull if the file cannot be written, and then has written nothing.
        """
        data = "".join(json.dumps(entry) + "\n" for entry in entries).encode("ascii")
        # With O_NONBLOCK, a pipe that somebody has put there is an error, not a wait.
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            with os.fdopen(os.open(self.rejected_path, flags, 0o600), "ab", 0) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                    raise OSError(errno.EPERM, "it is not a regular file of this user")
                try:
                    write_all(file, data)
                except OSError:
                    os.ftruncate(file.fileno(), status.st_size)
                    raise
        except OSError as error:
            raise SpoolFull(f"cannot write {self.rejected_path!r}: {error.strerror}") from error

    def waiting(self) -> int:
        """Return the number of metrics in the spool."""
        return self._waiting

    def fullness(self) -> Optional[str]:
        """Return why no more metrics should be added at the moment, or None."""
        used = self._one("PRAGMA page_count")[0] - self._one("PRAGMA freelist_count")[0]
        if used * self._one("PRAGMA page_size")[0] >= self._limit:
            return f"the spool {self.path!r} has reached its limit"
        if self._disk_is_full():
            return f"the disk of the spool {self.path!r} has less than {_RESERVED >> 20} MiB left"
        return None

    def free_disk_space(self) -> None:
        """Give free pages of the database back to the file system if that is nearly full."""
        if self._disk_is_full():
            self._free("incremental_vacuum", "wal_checkpoint(TRUNCATE)")

    def _disk_is_full(self) -> bool:
        try:
            disk = os.statvfs(os.path.dirname(self.path) or ".")
        except OSError:  # the folder is gone: restore_file() says so
            return False
        return disk.f_bavail * disk.f_frsize < _RESERVED

    def _free(self, *pragmas: str) -> None:
        with self._lock:
            try:
                # Not execute(): Python 3.11 steps only once through incremental_vacuum.
                self._database.executescript("".join(f"PRAGMA {pragma};" for pragma in pragmas))
            except sqlite3.OperationalError:
                pass  # the disk has no room even for this

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._database:
                yield
        except sqlite3.Error as error:
            raise SpoolFull(f"cannot write to the spool {self.path!r}: {error}") from error

    def _one(self, query: str, *parameters: Any) -> Tuple[Any, ...]:
        with self._lock:
            row: Tuple[Any, ...] = self._database.execute(query, parameters).fetchone()
            return row
