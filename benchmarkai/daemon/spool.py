"""The spool: a SQLite database in which metrics wait until the server has taken them."""

import errno
import hashlib
import json
import os
import sqlite3
import stat
import threading
import time
from collections import namedtuple

from benchmarkai.stdout import write_all

_SQLITE = b"SQLite format 3\0"  # how its databases begin

_LAYOUT = 1  # of the tables; PRAGMA user_version

# state: of the one row, id makes those of the metrics, last is the time of the last one, rest what
# came after the last newline; before, size and digest are of the add() that made it.
_TABLES = (
    """
BEGIN;
CREATE TABLE metrics (time INTEGER PRIMARY KEY, name TEXT, value, labels INTEGER);
CREATE TABLE labels (id INTEGER PRIMARY KEY, json TEXT UNIQUE);
CREATE TABLE state (id TEXT, last INTEGER, rest BLOB, before BLOB, size INTEGER, digest BLOB);
INSERT INTO state VALUES (lower(hex(randomblob(16))), 0, x'', x'', 0, x'');
PRAGMA user_version = %d;
COMMIT;
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
        self.full = False  # what fullness() said last
        self.salvaged = None  # the path of a broken spool, of which what could be read is here
        self._clock = clock
        self._lock = threading.RLock()
        self._labels_text = json.dumps(labels, sort_keys=True)
        for ending in ("", "-wal", "-shm", "-journal", ".refused", ".new", ".saved"):
            _check_own(path + ending)
        _check_kind(path)
        try:
            self._end_salvage()
            try:
                self._open()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._salvage()
        except OSError as error:
            raise SpoolError("cannot use the spool %r: %s" % (path, error.strerror))
        except sqlite3.DatabaseError as error:
            raise SpoolError(_explained(path, error))

    def _open(self):
        self._database = _connected(self.path)
        problem = self._one("PRAGMA quick_check(1)")[0]
        if problem != "ok":
            self._database.close()
            raise sqlite3.DatabaseError(problem)
        with self._database:
            self._database.execute(
                "INSERT OR IGNORE INTO labels (json) VALUES (?)", (self._labels_text,)
            )
        self._labels = self._one("SELECT id FROM labels WHERE json = ?", self._labels_text)[0]
        self._waiting = self._one("SELECT count(*) FROM metrics")[0]
        self._id, self._last, self.rest, self._before, self._size, self._digest = self._one(
            "SELECT * FROM state"
        )

    def _salvage(self):
        """Put the broken database aside, and take over what can be read of it.

        Killed in between, the next start begins again, or ends what _end_salvage() began.
        """
        new = self.path + ".new"
        if os.path.exists(new):
            os.unlink(new)
        database = _connected(new)
        old = sqlite3.connect(self.path)
        for query, copy in (
            ("SELECT id, json FROM labels", "INSERT INTO labels VALUES (?, ?)"),
            (
                "SELECT time, name, value, labels FROM metrics ORDER BY time",
                "INSERT INTO metrics VALUES (?, ?, ?, ?)",
            ),
            ("SELECT last, rest FROM state", "UPDATE state SET last = ?, rest = ?"),
        ):
            try:
                for row in old.execute(query):
                    database.execute(copy, row)
            except sqlite3.DatabaseError:
                pass  # here it breaks off
        old.close()
        database.execute(
            "UPDATE state SET last = max(last, (SELECT ifnull(max(time), 0) FROM metrics))"
        )
        database.commit()
        database.execute("PRAGMA journal_mode = DELETE")
        database.close()
        os.rename(new, self.path + ".saved")
        self._end_salvage()
        self._open()

    def _end_salvage(self):
        """Let the database that was saved take the place of the broken one, if there is one."""
        if not os.path.exists(self.path + ".saved"):
            return
        broken = "%s.broken-%d" % (self.path, self._clock())
        for ending in ("-wal", "-shm", "-journal", ""):
            if os.path.exists(self.path + ending):
                os.rename(self.path + ending, broken + ending)
        os.rename(self.path + ".saved", self.path)
        self.salvaged = broken

    def renew(self):
        """Make the file anew if somebody has removed it; return whether it was so.

        Raises SpoolFull when it cannot be made.
        """
        if os.path.exists(self.path):
            return False
        with self._lock:
            old = os.umask(0o077)
            try:
                self._database.execute("VACUUM INTO ?", (self.path,))
                self._database.close()
                for ending in ("-wal", "-shm"):
                    if os.path.exists(self.path + ending):
                        os.unlink(self.path + ending)
                self._open()
            except (sqlite3.Error, OSError) as error:
                raise SpoolFull("the spool %r was removed: %s" % (self.path, error))
            finally:
                os.umask(old)
        return True

    def recall(self, data):
        """Let the rest be what it was before the last add(), if the data are what it was given.

        To be called with the first bytes of the pipe: a daemon that was killed after add() has
        not taken them out. They are added again, and must not be joined to their own end.
        """
        seen = data[: self._size]
        if self._size and hashlib.sha256(seen).digest() == self._digest:
            self.rest = self._before
        self._size = 0

    def add(self, metrics, rest=b"", data=b""):
        """Keep the metrics, and the bytes that came after them, which end in no newline yet.

        metrics: (name, value) pairs.
        data: what was read.

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
            state = (last, rest, b"", 0, b"")
            if rest or self.rest:
                state = (last, rest, self.rest, len(data), hashlib.sha256(data).digest())
            try:
                with self._database:
                    self._database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", rows)
                    self._database.execute(
                        "UPDATE state SET last = ?, rest = ?, before = ?, size = ?, digest = ?",
                        state,
                    )
            except sqlite3.Error as error:
                raise SpoolFull("the spool %r takes nothing: %s" % (self.path, error))
            self._last = last
            self.rest = rest
            self._waiting += len(rows)

    def oldest(self, count):
        """Return up to that many of the metrics that have waited longest."""
        with self._lock:
            rows = self._database.execute(
                "SELECT time, name, value, ifnull(json, '{}') FROM metrics "
                "LEFT JOIN labels ON labels = id ORDER BY time LIMIT ?",
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
                    removed = self._database.execute(
                        "DELETE FROM metrics WHERE time BETWEEN ? AND ?",
                        (metrics[0].time, metrics[-1].time),
                    ).rowcount
            except sqlite3.Error as error:
                raise SpoolFull("the spool %r takes nothing: %s" % (self.path, error))
            self._waiting -= removed
            if self._one("PRAGMA freelist_count")[0] > 1000:
                self._give_back("incremental_vacuum(1000)")

    def refuse(self, entries):
        """Keep what was refused, each a dict, in the file for it.

        Raises SpoolFull when the disk has no room for it.
        """
        data = "".join(json.dumps(entry) + "\n" for entry in entries).encode("ascii")
        # Somebody may have put a pipe there: not waiting for its reader is an error.
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            with os.fdopen(os.open(self.refused_path, flags, 0o600), "ab", 0) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                    raise OSError(errno.EPERM, "it is not a regular file of this user")
                try:
                    write_all(file.fileno(), data)
                except OSError:
                    os.ftruncate(file.fileno(), status.st_size)
                    raise
        except OSError as error:
            raise SpoolFull("cannot write %r: %s" % (self.refused_path, error.strerror))

    def waiting(self):
        """Return how many metrics wait."""
        return self._waiting

    def fullness(self):
        """Return why no more should be added for now, or None."""
        reason = self._fullness()
        self.full = reason is not None
        return reason

    def _fullness(self):
        used = self._one("PRAGMA page_count")[0] - self._one("PRAGMA freelist_count")[0]
        if used * self._one("PRAGMA page_size")[0] >= self.limit:
            return "the spool %r has reached its limit" % self.path
        if self._disk_is_full():
            self._give_back("incremental_vacuum", "wal_checkpoint(TRUNCATE)")
            if self._disk_is_full():
                left = _LEFT_FREE >> 20
                return "the disk of the spool %r has less than %d MiB left" % (self.path, left)
        return None

    def _disk_is_full(self):
        disk = os.statvfs(os.path.dirname(self.path) or ".")
        return disk.f_bavail * disk.f_frsize < _LEFT_FREE

    def _give_back(self, *pragmas):
        """Give back to the disk what removing has left empty, if there is room to do it."""
        with self._lock:
            try:
                for pragma in pragmas:
                    self._database.execute("PRAGMA " + pragma).fetchall()
            except sqlite3.OperationalError:
                pass

    def close(self):
        with self._lock:
            self._database.close()

    def _one(self, query, *parameters):
        with self._lock:
            return self._database.execute(query, parameters).fetchone()


def _connected(path):
    """Return a connection that nobody else can have, to a database with our tables."""
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)
    database = sqlite3.connect(
        path, timeout=0, isolation_level="IMMEDIATE", check_same_thread=False
    )
    run = database.execute
    try:
        run("PRAGMA locking_mode = EXCLUSIVE")
        layout = run("PRAGMA user_version").fetchone()[0]
        others = run("SELECT count(*) FROM sqlite_master").fetchone()[0] if layout == 0 else 0
        if layout not in (0, _LAYOUT) or others:
            raise SpoolError(
                "%r is not a spool of this version, and was left as it is: give another one "
                "(--spool)" % path
            )
        if layout == 0:
            run("PRAGMA auto_vacuum = INCREMENTAL")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("BEGIN IMMEDIATE")  # takes the lock, which another daemon may have
        run("COMMIT")
        if layout == 0:
            database.executescript(_TABLES)
    except Exception:
        database.close()
        raise
    return database


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
