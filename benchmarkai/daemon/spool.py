"""The spool: a SQLite database in which metrics wait until the server has taken them."""

import json
import os
import sqlite3
import stat
import threading
import time
import uuid
from collections import namedtuple

_SQLITE = b"SQLite format 3\0"  # how its databases begin

_LAYOUT = 1  # of the tables; PRAGMA user_version

_TABLES = (
    """
CREATE TABLE metrics (time INTEGER PRIMARY KEY, name TEXT, value, labels INTEGER);
CREATE TABLE labels (id INTEGER PRIMARY KEY, json TEXT UNIQUE);
CREATE TABLE state (id TEXT, last INTEGER, rest BLOB);
PRAGMA user_version = %d;
"""
    % _LAYOUT
)

# Bytes of the disk that are not used up: removing takes some too, before it gives any back.
_LEFT_FREE = 16 << 20

# Beyond these SQLite has no integers, and they are kept as their digits.
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


class Metric(namedtuple("Metric", "id time name value labels")):
    """A metric on its way to a server.

    id: text that no other metric has, and that stays the same when it is sent again.
    time: nanoseconds since 1970, UTC; no two metrics of a spool have the same.
    labels: a dict of texts.
    """


class SpoolError(Exception):
    """The file cannot be used for a spool."""


class SpoolFull(Exception):
    """The spool, or the disk that it is on, has no room for now."""

    retry_after = None


class Spool(object):
    """Keeps metrics in their order, with their times and labels, through crashes and restarts.

    path: of the database. Beside it are those of SQLite, and PATH.refused: what was refused, as
    lines of JSON.
    labels: a dict of texts for the metrics that come now; those that wait keep theirs.
    limit: bytes of the database from which on it is full.
    clock: nanoseconds since 1970.

    What add() has returned from survives the death of the process, and that of the system but
    for the last moments (SQLite's WAL, synchronous=NORMAL). Threads may share a spool.

    Raises SpoolError for a file that is not the user's own, or no spool, or is in use.
    """

    def __init__(self, path, labels, limit, clock=time.time_ns):
        self.path = path
        self.refused_path = path + ".refused"
        self.limit = limit
        self._clock = clock
        self._lock = threading.RLock()
        self.salvaged = None  # the path of a broken spool, and how many metrics of it were saved
        for name in (path, path + "-wal", path + "-shm", self.refused_path):
            _check_own(name)
        _check_kind(path)
        try:
            self._open()
        except OSError as error:
            raise SpoolError("cannot use the spool %r: %s" % (path, error.strerror))
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise SpoolError(_explained(path, error))
            self._salvage()
        self._id, self._last, self.rest = self._one("SELECT id, last, rest FROM state")
        text = json.dumps(labels, sort_keys=True)
        with self._lock, self._database:
            self._database.execute("INSERT OR IGNORE INTO labels (json) VALUES (?)", (text,))
        self._labels = self._one("SELECT id FROM labels WHERE json = ?", text)[0]
        self._waiting = self._one("SELECT count(*) FROM metrics")[0]

    def _open(self):
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        self._database = sqlite3.connect(
            self.path, timeout=0, isolation_level="IMMEDIATE", check_same_thread=False
        )
        run = self._database.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        layout = self._one("PRAGMA user_version")[0]
        if layout not in (0, _LAYOUT):
            raise SpoolError(
                "the spool %r is of a newer version: give another one (--spool)" % self.path
            )
        if layout == 0:
            run("PRAGMA auto_vacuum = INCREMENTAL")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("BEGIN IMMEDIATE")  # takes the lock, which another daemon may have
        run("COMMIT")
        if layout == 0:
            self._database.executescript("BEGIN;" + _TABLES + "COMMIT;")
            with self._database:
                run("INSERT INTO state VALUES (?, 0, ?)", (uuid.uuid4().hex, b""))
        problem = self._one("PRAGMA quick_check(1)")[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)

    def _salvage(self):
        """Put the broken database aside, and take over what can be read of it."""
        broken = "%s.broken-%d" % (self.path, self._clock())
        self._database.close()
        for ending in ("", "-wal", "-shm"):
            if os.path.exists(self.path + ending):
                os.rename(self.path + ending, broken + ending)
        self._open()
        count = 0
        old = sqlite3.connect(broken)
        try:
            for row in old.execute("SELECT id, json FROM labels"):
                self._database.execute("INSERT INTO labels VALUES (?, ?)", row)
            last = 0
            for row in old.execute("SELECT time, name, value, labels FROM metrics ORDER BY time"):
                self._database.execute("INSERT INTO metrics VALUES (?, ?, ?, ?)", row)
                count += 1
                last = row[0]
                self._database.execute("UPDATE state SET last = ?", (last,))
            rest = old.execute("SELECT rest FROM state").fetchone()
            self._database.execute("UPDATE state SET rest = ?", rest)
        except sqlite3.DatabaseError:
            pass  # here it breaks off
        old.close()
        self._database.commit()
        self.salvaged = (broken, count)

    def add(self, metrics, rest=b""):
        """Keep the metrics, and the bytes that came after them, which end in no newline yet.

        metrics: (name, value) pairs.

        Raises SpoolFull, and then has kept nothing.
        """
        with self._lock:
            moment = max(self._last, self._clock())
            rows = []
            for name, value in metrics:
                moment += 1
                if not isinstance(value, float) and not _SMALLEST <= value <= _LARGEST:
                    value = str(value)
                rows.append((moment, name, value, self._labels))
            last = moment if rows else self._last
            try:
                with self._database:
                    self._database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", rows)
                    self._database.execute("UPDATE state SET last = ?, rest = ?", (last, rest))
            except sqlite3.OperationalError as error:
                raise SpoolFull("the spool %r takes nothing: %s" % (self.path, error))
            self._last = last
            self.rest = rest
            self._waiting += len(rows)

    def oldest(self, count):
        """Return up to that many of the metrics that have waited longest."""
        with self._lock:
            rows = self._database.execute(
                "SELECT time, name, value, json FROM metrics JOIN labels ON labels = id "
                "ORDER BY time LIMIT ?",
                (count,),
            ).fetchall()
        known = {}
        metrics = []
        for moment, name, value, labels in rows:
            if labels not in known:
                known[labels] = json.loads(labels)
            if isinstance(value, str):
                value = int(value)
            id = "%s-%d" % (self._id, moment)
            metrics.append(Metric(id, moment, name, value, known[labels]))
        return metrics

    def remove(self, metrics):
        """Forget these metrics, which oldest() has returned.

        Raises SpoolFull when the disk has no room to note it.
        """
        with self._lock:
            try:
                with self._database:
                    self._database.execute(
                        "DELETE FROM metrics WHERE time BETWEEN ? AND ?",
                        (metrics[0].time, metrics[-1].time),
                    )
                self._waiting -= len(metrics)
                if self._one("PRAGMA freelist_count")[0] > 1000:
                    self._database.execute("PRAGMA incremental_vacuum(1000)").fetchall()
            except sqlite3.OperationalError as error:
                raise SpoolFull("the spool %r takes nothing: %s" % (self.path, error))

    def refuse(self, entries):
        """Keep what was refused, each a dict, in the file for it.

        Raises SpoolFull when the disk has no room for it.
        """
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(self.refused_path, flags, 0o600), "a") as file:
                file.write(text)
        except OSError as error:
            raise SpoolFull("cannot write %r: %s" % (self.refused_path, error.strerror))

    def waiting(self):
        """Return how many metrics wait."""
        return self._waiting

    def fullness(self):
        """Return why no more should be added for now, or None."""
        used = self._one("PRAGMA page_count")[0] - self._one("PRAGMA freelist_count")[0]
        if used * self._one("PRAGMA page_size")[0] >= self.limit:
            return "the spool %r has reached its limit" % self.path
        if self._disk_is_full():
            self._shrink()
            if self._disk_is_full():
                left = _LEFT_FREE >> 20
                return "the disk of the spool %r has less than %d MiB left" % (self.path, left)
        return None

    def _disk_is_full(self):
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize < _LEFT_FREE

    def _shrink(self):
        """Give back what removing has left empty."""
        with self._lock:
            try:
                for pragma in ("incremental_vacuum", "wal_checkpoint(TRUNCATE)"):
                    self._database.execute("PRAGMA " + pragma).fetchall()
            except sqlite3.OperationalError:  # for that there is no room either
                pass

    def close(self):
        with self._lock:
            self._database.close()

    def _one(self, query, *parameters):
        with self._lock:
            return self._database.execute(query, parameters).fetchone()


def _check_own(path):
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SpoolError("cannot use the spool %r: %s" % (path, error.strerror))
    if not stat.S_ISREG(status.st_mode):
        raise SpoolError(
            "%r is not a regular file, and was left as it is: give another spool (--spool)" % path
        )
    if status.st_uid != os.geteuid():
        raise SpoolError(
            "%r belongs to the user %d: give another spool (--spool)" % (path, status.st_uid)
        )


def _check_kind(path):
    """Raise SpoolError for a file that never was a spool, such as one named by mistake."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(_SQLITE))
    except FileNotFoundError:
        return
    except OSError as error:
        raise SpoolError("cannot use the spool %r: %s" % (path, error.strerror))
    if start and start != _SQLITE:
        raise SpoolError(
            "%r is not a spool, and was left as it is: give another one (--spool)" % path
        )


def _explained(path, error):
    if "locked" in str(error):
        return "another daemon uses the spool %r: give another one (--spool)" % path
    return "cannot use the spool %r: %s" % (path, error)
