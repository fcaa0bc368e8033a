"""The SQLite database of the spool: trust in its files, connecting, schema and salvage."""

import os
import sqlite3
import stat
from typing import Callable, Optional

_HEADER = b"SQLite format 3\0"  # the first bytes of every SQLite database

# The files beside the database: those of SQLite, the rejected metrics, and those of a salvage.
_SUFFIXES = ("", "-wal", "-shm", "-journal", ".refused", ".new", ".saved")

_LAYOUT = 1  # of the tables; PRAGMA user_version

_SCHEMA = f"""
BEGIN;
CREATE TABLE metrics (
    time INTEGER PRIMARY KEY,  -- nanoseconds since 1970 UTC
    name TEXT,
    value,                     -- INTEGER or REAL; TEXT for integers beyond 64 bits
    labels INTEGER             -- id in the table labels
);
CREATE TABLE labels (id INTEGER PRIMARY KEY, json TEXT UNIQUE);
CREATE TABLE state (           -- has one row
    id TEXT,                   -- random; the ids of the metrics start with it
    last INTEGER,              -- time of the newest metric so far
    rest BLOB,                 -- partial line: the bytes after the last newline
    before BLOB,               -- partial line before the last add()
    size INTEGER,              -- bytes of data in the last add()
    digest BLOB                -- SHA-256 of that data
);
INSERT INTO state VALUES (lower(hex(randomblob(16))), 0, x'', x'', 0, x'');
PRAGMA user_version = {_LAYOUT};
COMMIT;
"""

# What a salvage copies. It then raises the last time to that of the newest metric.
_COPIES = (
    ("SELECT id, json FROM labels", "INSERT INTO labels VALUES (?, ?)"),
    (
        "SELECT time, name, value, labels FROM metrics ORDER BY time",
        "INSERT INTO metrics VALUES (?, ?, ?, ?)",
    ),
    ("SELECT last, rest FROM state", "UPDATE state SET last = ?, rest = ?"),
)


class SpoolError(Exception):
    """The file cannot be used as a spool."""


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
        raise SpoolError(f"cannot use the spool {path!r}: {error.strerror}") from error
    except sqlite3.DatabaseError as error:
        reason = f"cannot use the spool {path!r}: {error}"
        if "locked" in str(error):
            reason = f"another daemon uses the spool {path!r}: choose another one (--spool)"
        raise SpoolError(reason) from error


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
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    database = sqlite3.connect(
        path, timeout=0, isolation_level="IMMEDIATE", check_same_thread=False
    )
    run = database.execute
    try:
        run("PRAGMA locking_mode = EXCLUSIVE")
        layout = run("PRAGMA user_version").fetchone()[0]
        tables = run("SELECT count(*) FROM sqlite_master").fetchone()[0] if layout == 0 else 0
        if layout not in (0, _LAYOUT) or tables:
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
        if layout == 0:
            database.executescript(_SCHEMA)
        problem = run("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
    except BaseException:
        database.close()
        raise
    return database


def _salvage(path: str) -> None:
    """Copy what can be read of a corrupt database to PATH.saved, where _finish_salvage() finds it.

    If the process is killed meanwhile, the next start begins anew.
    """
    new = path + ".new"
    if os.path.exists(new):
        os.unlink(new)
    database = connect(new)
    corrupt = sqlite3.connect(path)
    for query, copy in _COPIES:
        try:
            for row in corrupt.execute(query):
                database.execute(copy, row)
        except sqlite3.DatabaseError:
            pass  # nothing beyond this row can be read
    corrupt.close()
    database.execute(
        "UPDATE state SET last = max(last, (SELECT ifnull(max(time), 0) FROM metrics))"
    )
    database.commit()
    database.execute("PRAGMA journal_mode = DELETE")
    database.close()
    os.rename(new, path + ".saved")


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
    if not stat.S_ISREG(status.st_mode):
        raise SpoolError(
            f"{path!r} is not a regular file, and was left as it is: choose another spool (--spool)"
        )
    if status.st_uid != os.geteuid():
        raise SpoolError(
            f"{path!r} belongs to the user {status.st_uid}: choose another spool (--spool)"
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
