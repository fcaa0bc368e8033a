"""The spool: a queue on disk in which metrics wait until the server has accepted them."""

import contextlib
import json
import os
import random
import sqlite3
import threading
from itertools import chain, count, islice
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from benchmarkai.daemon import database
from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.files import make_folder, remove_files
from benchmarkai.daemon.journal import Journal
from benchmarkai.daemon.metric import Metric, Value
from benchmarkai.daemon.pipe import Pipe
from benchmarkai.daemon.rejects import Entry, RejectsFile
from benchmarkai.daemon.times import Times

# Bytes of the disk that are left free: removing metrics takes some space before it frees any.
_RESERVED = 16 << 20

# SQLite has no integers beyond these. They are stored as text.
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1

# One statement for many rows takes half the time. SQLite may have a limit of 999 parameters.
_ROW = "(?, ?, ?, ?, ?, NULL)"
_ROWS = 100
_INSERT = f"INSERT INTO metrics VALUES {_ROW}"
_INSERT_ROWS = _INSERT + f", {_ROW}" * (_ROWS - 1)

_MAX_FREE_PAGES = 1000  # of the database, before they are given back to the file system
_RESTORE_INTERVAL = 1.0  # seconds between attempts to create removed files again
_CHUNK = 1000  # metrics


class SpoolFull(Exception):
    """There is no room at the moment, in the spool or on its disk."""


class Spool:
    """Keeps metrics in order, with their times and labels, across crashes and restarts.

    path: the path of the database. SQLite keeps its own files beside it; PATH.in is the journal
        of what was read from the pipe, PATH.refused contains what was rejected.
    limit: the maximum size of the database in bytes; fullness() tells when it is reached.
    refused_limit: the maximum size of the file of what was rejected, in bytes.
    time_step: how far apart the times of the metrics of a series are, in nanoseconds, or 0.

    target: the server to which the metrics go.

    Once add() has returned, the metrics survive the death of the process; if the system crashes,
    its last moments may be lost (SQLite's WAL mode with synchronous=NORMAL). Threads may share a
    spool.

    Raises database.SpoolError for a file that cannot be used.
    """

    def __init__(
        self,
        path: str,
        limit: int,
        refused_limit: int = 1 << 30,
        clock: Optional[Clock] = None,
        time_step: int = 0,
    ) -> None:
        self.path = path
        self.rejects = RejectsFile(path + ".refused", refused_limit)
        self._limit = limit
        self._clock = clock or Clock()
        self._lock = threading.RLock()
        self._next_restore = 0.0
        self.time_step = time_step
        self._times = Times(self._clock, time_step)
        self.corrupt_path = database.open_database(path, self._clock.time, self._load)
        try:
            self._journal = Journal(path + ".in", self._position)
        except OSError as error:
            self._database.close()
            raise database.SpoolError(
                f"cannot use the spool {path!r}: {path}.in: {error.strerror}"
            ) from error

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            if self._journal.pending and not self._journal.is_in_place():
                with contextlib.suppress(OSError):
                    self._journal.restore()
            self._journal.remove()
            self._journal.close()
            self._database.close()

    def _load(self, connection: sqlite3.Connection) -> None:
        # The check of the database does not look into this index.
        with connection:
            connection.execute("INSERT OR IGNORE INTO labels (json) VALUES ('{}')")
        self._database = connection
        self._known_labels: Dict[int, Mapping[str, str]] = {}  # by their numbers
        self._is_open = True
        self._waiting: int = connection.execute("SELECT count(*) FROM metrics").fetchone()[0]
        self._sequence: int
        row = connection.execute(
            "SELECT id, sequence, time, position, labels, target FROM state"
        ).fetchone()
        self._id, self._sequence, newest, self._position, self._labels, self.target = row
        self._times.go_on_from(newest)

    # What comes in

    def begin(self, labels: Mapping[str, str], target: str) -> Optional[str]:
        """Set the labels and the server of the metrics that come next.

        Those in the spool keep their labels.

        Returns the server to which metrics in the spool should have gone, if that is another one.
        """
        with self._lock:
            with self._transaction():
                self._labels = self._id_of_labels(json.dumps(labels, sort_keys=True))
                self._database.execute(
                    "UPDATE state SET labels = ?, target = ?", (self._labels, target)
                )
            other = self.target if self._waiting and self.target != target else None
            self.target = target
            return other

    def _id_of_labels(self, text: str) -> int:
        self._database.execute("INSERT OR IGNORE INTO labels (json) VALUES (?)", (text,))
        number: int = self._one("SELECT id FROM labels WHERE json = ?", text)[0]
        return number

    def receive(self, pipe: Pipe) -> int:
        """Move the data in the pipe into the journal. Return how many bytes it was.

        Raises SpoolFull, and then the data is still in the pipe.
        """
        try:
            return self._journal.receive(pipe)
        except OSError as error:
            raise SpoolFull(f"cannot write {self._journal.path!r}: {error.strerror}") from error

    def pending(self) -> bytes:
        """Return the data in the journal that has not become metrics yet."""
        return self._journal.pending

    def add(self, pairs: Sequence[Tuple[str, Value]], size: int = 0) -> None:
        """Store metrics, and forget the data from which they came.

        pairs: the (name, value) of each metric.
        size: how many bytes of the pending data they come from.

        Raises SpoolFull, and then has stored and forgotten nothing.
        """
        with self._lock:
            plan = self._times.plan(pairs)
            first, labels = self._sequence + 1, self._labels
            rows = (
                (
                    sequence,
                    moment,
                    name,
                    value if type(value) is float else _storable(value),
                    labels,
                )
                for sequence, moment, (name, value) in zip(count(first), plan.times, pairs)
            )
            sequence = self._sequence + len(pairs)
            position: int = self._journal.position + size
            with self._transaction():
                self._insert(rows)
                self._database.execute(
                    "UPDATE state SET sequence = ?, time = ?, position = ?",
                    (sequence, plan.newest, position),
                )
            self._sequence = sequence
            self._times.keep(plan)
            self._waiting += len(pairs)
            self._journal.advance(size)

    def _insert(self, rows: Iterator[Tuple[Any, ...]]) -> None:
        chunk = list(islice(rows, _ROWS))
        while len(chunk) == _ROWS:
            self._database.execute(_INSERT_ROWS, list(chain.from_iterable(chunk)))
            chunk = list(islice(rows, _ROWS))
        self._database.executemany(_INSERT, chunk)

    # What goes out

    def oldest(self, count: int, after: int = 0) -> List[Metric]:
        """Return up to `count` of the metrics that have waited longest, in order.

        after: only those with larger numbers.
        """
        return self._select("WHERE sequence > ? ORDER BY sequence LIMIT ?", after, count)

    def sample(self, count: int) -> List[Metric]:
        """Return up to `count` metrics that may differ in what a server thinks of them, in order.

        They are the newest one, others at random, and the oldest of the series (name and labels)
        of each: a server may keep only the last value of a series that it gets.
        """
        with self._lock:
            if not self._waiting:
                return []
            first, last = self._one("SELECT min(sequence), max(sequence) FROM metrics")
            found: Dict[int, Metric] = {}
            for start in [last, *(random.randint(first, last) for _ in range(count // 2 - 1))]:
                (chosen,) = self._select("WHERE sequence >= ? ORDER BY sequence LIMIT 1", start)
                (oldest,) = self._select(
                    "WHERE (name, labels) IS (SELECT name, labels FROM metrics WHERE sequence = ?) "
                    "ORDER BY sequence LIMIT 1",
                    chosen.sequence,
                )
                found.update({metric.sequence: metric for metric in (chosen, oldest)})
            return [found[sequence] for sequence in sorted(found)]

    def _select(self, where: str, *parameters: Any) -> List[Metric]:
        rows = self._all(
            f"SELECT id, time, name, value, labels, sequence FROM metrics {where}", *parameters
        )
        # Metrics with the same labels have the same object, by which others may know them.
        known, spool = self._known_labels, self._id
        self._known_labels = known = {
            number: known[number] if number in known else self._labels_of(number)
            for number in {row[4] for row in rows}
        }
        return [
            Metric(
                own_id,
                moment,
                name,
                int(value) if type(value) is str else value,
                known[labels],
                sequence,
                spool,
            )
            for own_id, moment, name, value, labels, sequence in rows
        ]

    def _labels_of(self, number: int) -> Mapping[str, str]:
        rows = self._all("SELECT json FROM labels WHERE id = ?", number)
        labels: Mapping[str, str] = json.loads(rows[0][0]) if rows else {}
        return labels

    def remove(self, metrics: Sequence[Metric]) -> None:
        """Remove these metrics.

        Raises SpoolFull if the disk has no room to record it.
        """
        with self._lock:
            with self._transaction():
                removed = self._database.executemany(
                    "DELETE FROM metrics WHERE sequence BETWEEN ? AND ?",
                    _ranges([metric.sequence for metric in metrics]),
                ).rowcount
            self._waiting -= removed
            if self._one("PRAGMA freelist_count")[0] > _MAX_FREE_PAGES:
                self._free(f"incremental_vacuum({_MAX_FREE_PAGES})")

    def reject(self, entries: Sequence[Entry]) -> None:
        """Keep the entries in the file of what was rejected.

        Raises SpoolFull if the file cannot be written, and then has written nothing.
        """
        try:
            self.rejects.append(entries)
        except OSError as error:
            raise SpoolFull(f"cannot write {self.rejects.path!r}: {error.strerror}") from error

    # What comes from elsewhere

    def take_back_rejected(self, also_new: bool) -> int:
        """Store rejected metrics again, and return how many those are.

        also_new: whether to do more than to end what an earlier process has begun.

        Raises SpoolFull.
        """
        try:
            taken = self._take_back_rejected()
            if also_new:
                self.rejects.set_aside()
                taken += self._take_back_rejected()
        except OSError as error:
            raise SpoolFull(f"cannot take back {self.rejects.path!r}: {error.strerror}") from error
        return taken

    def _take_back_rejected(self) -> int:
        metrics = self.rejects.take_back(self._id)
        taken = self._store(metrics)
        self.rejects.done()
        return taken

    def absorb(self, other: "Spool") -> int:
        """Store all metrics of another spool, and return how many those are."""

        def metrics() -> Iterator[Metric]:
            chunk = other.oldest(_CHUNK)
            while chunk:
                yield from chunk
                chunk = other.oldest(_CHUNK, after=chunk[-1].sequence)

        return self._store(metrics())

    def _store(self, metrics: Iterable[Metric]) -> int:
        """Store metrics that have ids, unless they are here already."""
        with self._lock:
            before: int = self._waiting
            with self._transaction():
                labels: Dict[str, int] = {}
                self._database.executemany(
                    "INSERT OR IGNORE INTO metrics VALUES (?, ?, ?, ?, ?, ?)",
                    (self._row_of(metric, labels) for metric in metrics),
                )
                self._database.execute("UPDATE state SET sequence = ?", (self._sequence,))
            self._waiting = self._one("SELECT count(*) FROM metrics")[0]
            return self._waiting - before

    def _row_of(self, metric: Metric, known_labels: Dict[str, int]) -> Tuple[Any, ...]:
        text = json.dumps(metric.labels, sort_keys=True)
        if text not in known_labels:
            known_labels[text] = self._id_of_labels(text)
        rest = (metric.time, metric.name, _storable(metric.value), known_labels[text])
        prefix, _, number = metric.id.rpartition("-")
        if prefix == self._id and number.isdecimal() and 0 < int(number) <= self._sequence:
            return (int(number), *rest, None)
        self._sequence += 1
        return (self._sequence, *rest, metric.id)

    # Its size and its files

    def waiting(self) -> int:
        """Return the number of metrics in the spool."""
        return self._waiting

    def shared_times(self) -> int:
        """Return how many metrics were too many for times a step apart."""
        return self._times.shared

    def oldest_time(self) -> Optional[int]:
        """Return the time of the metric that has waited longest, or None."""
        rows = self._all("SELECT time FROM metrics ORDER BY sequence LIMIT 1")
        return rows[0][0] if rows else None

    def size(self) -> int:
        """Return how many bytes of the limit are used."""
        pages: int = self._one("PRAGMA page_count")[0] - self._one("PRAGMA freelist_count")[0]
        page_size: int = self._one("PRAGMA page_size")[0]
        return pages * page_size

    def disk_free(self) -> Optional[int]:
        """Return how many bytes the disk of the spool has left, or None if its folder is gone."""
        try:
            disk = os.statvfs(os.path.dirname(self.path) or ".")
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize

    def fullness(self) -> Optional[str]:
        """Return why no more metrics should be added at the moment, or None."""
        if self.size() >= self._limit:
            return f"the spool {self.path!r} has reached its limit"
        if self._disk_is_full():
            return f"the disk of the spool {self.path!r} has less than {_RESERVED >> 20} MiB left"
        return None

    def free_disk_space(self) -> None:
        """Give free pages of the database back to the file system if that is nearly full."""
        if self._disk_is_full():
            self._free("incremental_vacuum", "wal_checkpoint(TRUNCATE)")

    def _disk_is_full(self) -> bool:
        free = self.disk_free()
        return free is not None and free < _RESERVED

    def exists(self) -> bool:
        """Return whether the metrics are in a file that the next daemon finds."""
        return self._is_open and os.path.exists(self.path)

    def is_needed(self) -> bool:
        """Return whether there is anything in its files."""
        return bool(self._waiting or self.pending() or os.path.exists(self.rejects.path))

    def restore_files(self) -> bool:
        """Create the files again if somebody has removed them. Return whether it was so.

        Raises SpoolFull if they cannot be created. The metrics are then in files without a name,
        and are gone when the process ends.
        """
        if self.exists() and self._journal.is_in_place():
            return False
        now = self._clock.monotonic()
        if now < self._next_restore:
            return False
        with self._lock:
            old_umask = os.umask(0o077)
            try:
                make_folder(self.path)
                if not self._journal.is_in_place():
                    self._journal.restore()
                if not self.exists():
                    self._restore_database()
            except (sqlite3.Error, database.SpoolError, OSError) as error:
                self._next_restore = now + _RESTORE_INTERVAL
                raise SpoolFull(f"the spool {self.path!r} was removed: {error}") from error
            finally:
                os.umask(old_umask)
        return True

    def _restore_database(self) -> None:
        if not os.path.exists(self.path):
            new = self.path + ".new"
            remove_files(new)
            self._database.execute("VACUUM INTO ?", (new,))
            # SQLite would take the old files for those of the new database.
            remove_files(self.path + "-wal", self.path + "-shm")
            os.rename(new, self.path)
        self._is_open = False
        self._database.close()
        self._load(database.connect(self.path))

    def delete(self) -> None:
        """Remove the database, whose metrics are elsewhere if there are any, and the journal."""
        # A new database would take a journal without one for new data; SQLite does not use the
        # files of a database that is gone.
        self._journal.remove()
        remove_files(self.path, self.path + "-wal", self.path + "-shm")

    def _free(self, *pragmas: str) -> None:
        with self._lock:
            try:
                # Not execute(): Python 3.11 steps only once through incremental_vacuum.
                self._database.executescript("".join(f"PRAGMA {pragma};" for pragma in pragmas))
            except sqlite3.Error:
                pass  # the disk has no room even for this

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._database:
                yield
        except sqlite3.Error as error:
            raise SpoolFull(f"cannot write to the spool {self.path!r}: {error}") from error

    def _all(self, query: str, *parameters: Any) -> List[Tuple[Any, ...]]:
        with self._lock:
            try:
                return self._database.execute(query, parameters).fetchall()
            except sqlite3.OperationalError as error:
                raise SpoolFull(f"cannot read the spool {self.path!r}: {error}") from error
            except sqlite3.ProgrammingError as error:
                if self._is_open:
                    raise
                raise SpoolFull(f"the spool {self.path!r} is gone: {error}") from error

    def _one(self, query: str, *parameters: Any) -> Tuple[Any, ...]:
        return self._all(query, *parameters)[0]


def _storable(value: Value) -> Any:
    if isinstance(value, float) or _MIN_INTEGER <= value <= _MAX_INTEGER:
        return value
    return str(value)


def _ranges(numbers: Sequence[int]) -> List[Tuple[int, int]]:
    """Return the first and the last of each run of numbers that follow each other."""
    numbers = sorted(numbers)
    starts = [i for i in range(len(numbers)) if not i or numbers[i] != numbers[i - 1] + 1]
    return [
        (numbers[start], numbers[end - 1])
        for start, end in zip(starts, [*starts[1:], len(numbers)])
    ]
