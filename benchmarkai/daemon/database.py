"""The SQLite database of the spool: trust in its files, connecting, schema and salvage."""

import contextlib
import os
import sqlite3
import stat
from typing import Callable, Optional

from benchmarkai.daemon.files import leads_to, remove_files
from benchmarkai.daemon.journal import write_journal

_HEADER = b"SQLite format 3\0"  # the first bytes of every SQLite database

# The files beside the database: those of SQLite and of a salvage, the journal, and what was
# rejected.
_SUFFIXES = (
    *("", "-wal", "-shm", "-journal", ".new", ".saved"),
    *(".in", ".in.new", ".refused", ".retried", ".status", ".status.new"),
)

_LAYOUT = 2  # of the tables; PRAGMA user_version

# SQLite accepts paths of 512 bytes, and adds a suffix to them.
_MAX_PATH_SIZE = 500

_SCHEMA = f"""
CREATE TABLE metrics (
    sequence INTEGER PRIMARY KEY,
    time INTEGER,              -- nanoseconds since 1970 UTC
    name TEXT,
    value,                     -- INTEGER or REAL; TEXT for integers beyond 64 bits
    labels INTEGER,            -- id in the table labels
    id TEXT                    -- of a metric that came from another spool
);
CREATE UNIQUE INDEX foreign_ids ON metrics (id) WHERE id IS NOT NULL;
CREATE TABLE labels (id INTEGER PRIMARY KEY, json TEXT UNIQUE);
CREATE TABLE state (           -- has one row
    id TEXT,                   -- random; the ids of the metrics start with it
    sequence INTEGER,          -- of the newest metric so far
    time INTEGER,              -- of the newest metric so far
    position INTEGER,          -- bytes of the journal that are in the table metrics
    labels INTEGER,            -- those of the metrics that come next
    target TEXT                -- the server to which the metrics go
);
INSERT INTO state VALUES (lower(hex(randomblob(16))), 0, 0, 0, NULL, NULL);
PRAGMA user_version = {_LAYOUT};
"""

# In layout 1, the time of a metric was its number too.
_FROM_LAYOUT_1 = (
    "ALTER TABLE metrics RENAME TO metrics_1;"
    "ALTER TABLE labels RENAME TO labels_1;"
    "ALTER TABLE state RENAME TO state_1;"
    + _SCHEMA
    + "INSERT INTO metrics SELECT time, time, name, value, labels, NULL FROM metrics_1;"
    "INSERT INTO labels SELECT id, json FROM labels_1;"
    "UPDATE state SET (id, sequence, time) = (SELECT id, last, last FROM state_1);"
    "DROP TABLE metrics_1; DROP TABLE labels_1; DROP TABLE state_1;"
)

# What a salvage copies, and what it then makes of the state: it may have lost newer metrics.
_COPY_LABELS = ("SELECT id, json FROM labels", "INSERT INTO labels VALUES (?, ?)")
_COPIES = (
    _COPY_LABELS,
    (
        "SELECT sequence, time, name, value, labels, id FROM metrics ORDER BY sequence",
        "INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)",
    ),
    (
        "SELECT id, sequence, time, position, labels, target FROM state",
        "UPDATE state SET (id, sequence, time, position, labels, target) = (?, ?, ?, ?, ?, ?)",
    ),
)
_COPIES_FROM_LAYOUT_1 = (
    _COPY_LABELS,
    (
        "SELECT time, time, name, value, labels FROM metrics ORDER BY time",
        "INSERT INTO metrics VALUES (?, ?, ?, ?, ?, NULL)",
    ),
    ("SELECT id, last, last FROM state", "UPDATE state SET (id, sequence, time) = (?, ?, ?)"),
)
_RAISE_SEQUENCE = (
    "UPDATE state SET sequence = max(sequence, (SELECT ifnull(max(sequence), 0) FROM metrics))"
)


class SpoolError(Exception):
    """The file cannot be used as a spool."""


class SpoolInUse(SpoolError):
    """Another daemon uses the spool."""


def open_database(
    path: str, clock: Callable[[], int], load: Callable[[sqlite3.Connection], None]
) -> Optional[str]:
    """Open the database of a spool, or create it.

    A corrupt database is moved aside, and what SQLite can read of it is copied into a new one.

    clock: returns nanoseconds since 1970.
    load: called with the connection, which locks out all others. A database in which it fails is
        corrupt.

    Returns the new path of the corrupt database if there was one.

    Raises SpoolError for a file that does not belong to this user, is not a spool, or is in use.
    """
    if len(os.fsencode(path)) > _MAX_PATH_SIZE:
        raise SpoolError(
            f"the path of the spool, {path!r}, is longer than the {_MAX_PATH_SIZE} bytes that "
            "SQLite accepts: choose a shorter one (--spool, or TMPDIR)"
        )
    for suffix in _SUFFIXES:
        _check_owner(path + suffix)
    _check_header(path)
    try:
        corrupt = _finish_salvage(path, clock)
        try:
            _connect_and_load(path, load)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            _salvage(path)
            corrupt = _finish_salvage(path, clock)
            _connect_and_load(path, load)
        return corrupt
    except OSError as error:
        reason = error.strerror
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            reason = f"there is no folder {folder!r}: create it"
        raise SpoolError(f"cannot use the spool {path!r}: {reason}") from error
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise SpoolInUse(
                f"another daemon uses the spool {path!r}: choose another one (--spool)"
            ) from error
        raise SpoolError(f"cannot use the spool {path!r}: {error}") from error


def _connect_and_load(path: str, load: Callable[[sqlite3.Connection], None]) -> None:
    connection = connect(path)
    try:
        load(connection)
    except BaseException:
        connection.close()
        raise


def connect(path: str) -> sqlite3.Connection:
    """Return a connection to the database, which no other connection can use meanwhile.

    The tables are created in an empty or missing file.

    Raises SpoolError for a database that is not a spool, and sqlite3.DatabaseError for a corrupt
    one (OperationalError for a locked one).
    """
    while True:
        status = _create(path)
        try:
            database = _connect(path)
        except sqlite3.OperationalError:
            if leads_to(path, status):
                raise
        else:
            if leads_to(path, status):
                return database
            database.close()
        # While we waited for its lock, another run took what was in it, and deleted it.


def _create(path: str) -> os.stat_result:
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _connect(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(
        # bai-daemon status may have it open for a moment.
        path,
        timeout=0.5,
        isolation_level="IMMEDIATE",
        check_same_thread=False,
    )
    run = database.execute
    try:
        run("PRAGMA locking_mode = EXCLUSIVE")
        layout = run("PRAGMA user_version").fetchone()[0]
        tables = run("SELECT count(*) FROM sqlite_master").fetchone()[0] if layout == 0 else 0
        if layout not in (0, 1, _LAYOUT) or tables:
            raise SpoolError(
                f"{path!r} is not a spool of this version, and was left as it is: choose another "
                "one (--spool)"
            )
        if layout == 0:
            run("PRAGMA auto_vacuum = INCREMENTAL")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("BEGIN IMMEDIATE")  # takes the lock; fails if another daemon holds it
        run("COMMIT")
        if layout == 1:
            _keep_partial_line(database, path)
        if layout != _LAYOUT:
            schema = _FROM_LAYOUT_1 if layout == 1 else _SCHEMA
            database.executescript(f"BEGIN; {schema} COMMIT;")
        problem = run("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
    except BaseException:
        database.close()
        raise
    return database


def count_waiting(path: str) -> int:
    """Return the number of metrics in a spool, without changing it.

    Raises SpoolError; SpoolInUse if a daemon uses it.
    """
    if not os.path.exists(path):
        raise SpoolError(f"there is no spool {path!r}")
    _check_type(path, os.stat(path))  # opening a pipe would wait for its writer
    _check_header(path)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=0)) as connection:
            # Without it, SQLite would create files beside the database.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            number: int = connection.execute("SELECT count(*) FROM metrics").fetchone()[0]
            return number
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise SpoolInUse(f"a daemon uses the spool {path!r}") from error
        raise SpoolError(f"cannot read the spool {path!r}: {error}") from error


def _keep_partial_line(database: sqlite3.Connection, path: str) -> None:
    """Move the partial line of layout 1 into the journal, which did not exist then."""
    ((line,),) = database.execute("SELECT rest FROM state").fetchall()
    write_journal(path + ".in", 0, line).close()


def _salvage(path: str) -> None:
    """Copy what can be read of a corrupt database to PATH.saved, where _finish_salvage() finds it.

    If the process is killed meanwhile, the next start begins anew.
    """
    new = path + ".new"
    remove_files(new)
    database = connect(new)
    corrupt = sqlite3.connect(path)
    for query, copy in _COPIES_FROM_LAYOUT_1 if _is_layout_1(corrupt) else _COPIES:
        try:
            for row in corrupt.execute(query):
                database.execute(copy, row)
        except sqlite3.DatabaseError:
            pass  # nothing beyond this row can be read
    corrupt.close()
    database.execute(_RAISE_SEQUENCE)
    database.commit()
    database.execute("PRAGMA journal_mode = DELETE")
    database.close()
    os.rename(new, path + ".saved")


def _is_layout_1(database: sqlite3.Connection) -> bool:
    try:
        return bool(database.execute("PRAGMA user_version").fetchone()[0] == 1)
    except sqlite3.DatabaseError:
        return False


def _finish_salvage(path: str, clock: Callable[[], int]) -> Optional[str]:
    """Put PATH.saved in place of the corrupt database, if there is one.

    Returns the new path of the corrupt database.
    """
    if not os.path.exists(path + ".saved"):
        return None
    corrupt = f"{path}.broken-{clock()}"
    for suffix in ("-wal", "-shm", "-journal", ""):
        if os.path.exists(path + suffix):
            os.rename(path + suffix, corrupt + suffix)
    os.rename(path + ".saved", path)
    return corrupt


def _check_owner(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SpoolError(f"cannot use the spool {path!r}: {error.strerror}") from error
    _check_type(path, status)
    if status.st_uid != os.geteuid():
        raise SpoolError(
            f"{path!r} belongs to the user {status.st_uid}: choose another spool (--spool)"
        )


def _check_type(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SpoolError(
            f"{path!r} is not a regular file, and was left as it is: choose another spool (--spool)"
        )


def _check_header(path: str) -> None:
    """Raise SpoolError for a file that has never been a spool, such as one named by mistake."""
    try:
        with open(path, "rb") as file:
            header = file.read(len(_HEADER))
    except FileNotFoundError:
        return
    except OSError as error:
        raise SpoolError(f"cannot use the spool {path!r}: {error.strerror}") from error
    if header and header != _HEADER:
        raise SpoolError(
            f"{path!r} is not a spool, and was left as it is: choose another one (--spool)"
        )
