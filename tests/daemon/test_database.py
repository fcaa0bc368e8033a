"""The database of the spool: which files are trusted, and what is saved of a corrupt one."""

import contextlib
import os
import sqlite3
import stat

import pytest

from benchmarkai.daemon.database import SpoolError, open_database
from benchmarkai.daemon.spool import Spool
from tests.daemon.harness import open_descriptors

PAIRS = [("a", 1), ("b", 0.5)]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "spool")


def clock():
    return 42


def open_and_close(path):
    """Return the path of the corrupt database, or None."""
    return open_database(path, clock, lambda database: database.close())


def spool_at(path, labels=()):
    return Spool(path, dict(labels), 1 << 30, clock)


def fill(path, pairs=PAIRS):
    with spool_at(path) as spool:
        spool.add(pairs)


def waiting_at(path):
    with spool_at(path) as spool:
        return [(metric.name, metric.value) for metric in spool.oldest(1 << 20)]


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def read(path):
    with open(path, "rb") as file:
        return file.read()


# Trust


SUFFIXES = ["", "-wal", "-shm", "-journal", ".refused", ".new", ".saved"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_link_in_place_of_a_file_is_rejected(path, tmp_path, suffix):
    private = tmp_path / "private"
    private.write_text("private")
    os.symlink(private, path + suffix)
    with pytest.raises(SpoolError) as caught:
        open_and_close(path)
    assert str(caught.value) == (
        f"{path + suffix!r} is not a regular file, and was left as it is: choose another spool "
        "(--spool)"
    )
    assert private.read_text() == "private"


def test_a_link_to_a_device_in_place_of_the_journal_is_rejected(path):
    fill(path)
    os.symlink("/dev/null", path + "-journal")
    with pytest.raises(SpoolError, match="is not a regular file, and was left as it is"):
        open_and_close(path)


@as_root
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_another_user_is_rejected(path, suffix):
    fill(path)
    with open(path + suffix, "ab"):
        pass
    os.chown(path + suffix, 12345, -1)
    with pytest.raises(SpoolError) as caught:
        open_and_close(path)
    assert str(caught.value) == (
        f"{path + suffix!r} belongs to the user 12345: choose another spool (--spool)"
    )


def test_a_file_that_has_never_been_a_spool_is_rejected_and_left(path):
    with open(path, "w") as file:
        file.write("something else" * 1000)
    os.chmod(path, 0o644)
    with pytest.raises(SpoolError) as caught:
        open_and_close(path)
    assert str(caught.value) == (
        f"{path!r} is not a spool, and was left as it is: choose another one (--spool)"
    )
    assert read(path) == b"something else" * 1000
    assert mode_of(path) == 0o644


def test_an_empty_file_becomes_a_spool_that_only_its_owner_can_read(path):
    with open(path, "w"):
        os.chmod(path, 0o644)
    fill(path)
    assert mode_of(path) == 0o600
    assert waiting_at(path) == PAIRS


@pytest.mark.parametrize("name", ["spool/in/no/folder", "spool/x"])
def test_a_folder_that_does_not_exist_is_an_error(tmp_path, name):
    with pytest.raises(SpoolError, match="cannot use the spool '.*': No such file or directory"):
        open_and_close(str(tmp_path / name))


def test_two_daemons_cannot_share_a_spool(path):
    with spool_at(path), pytest.raises(SpoolError) as caught:
        open_and_close(path)
    assert str(caught.value) == (
        f"another daemon uses the spool {path!r}: choose another one (--spool)"
    )


# Schema


def change(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()


def test_a_spool_of_another_version_is_rejected_and_left(path):
    fill(path)
    change(path, "PRAGMA user_version = 99")
    before = read(path)
    with pytest.raises(SpoolError) as caught:
        open_and_close(path)
    assert str(caught.value) == (
        f"{path!r} is not a spool of this version, and was left as it is: choose another one "
        "(--spool)"
    )
    assert read(path) == before


def test_a_database_of_another_program_is_rejected_and_left(path):
    change(path, "CREATE TABLE other (a)")
    before = read(path)
    with pytest.raises(SpoolError, match="is not a spool of this version, and was left as it is"):
        open_and_close(path)
    assert read(path) == before


# Salvage


def corrupt_the_middle(path, size=20000):
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        file.write(b"\xff" * size)


def test_a_corrupt_spool_is_moved_aside_and_what_can_be_read_is_saved(path):
    with spool_at(path) as spool:
        for number in range(5000):
            spool.add([("a", number)])
    corrupt_the_middle(path)
    contents = read(path)
    with spool_at(path) as spool:
        assert spool.corrupt_path == path + ".broken-42"
        count = spool.waiting()
        values = [metric.value for metric in spool.oldest(10000)]
        assert values == list(range(count))
        assert 500 < count < 5000
        spool.add([("a", -1)])
        assert spool.waiting() == count + 1
        times = [metric.time for metric in spool.oldest(10000)]
        assert times == sorted(set(times))
    assert read(path + ".broken-42") == contents
    with spool_at(path) as spool:
        assert spool.corrupt_path is None
        assert spool.waiting() == count + 1


def test_the_labels_and_the_partial_line_of_a_corrupt_spool_are_saved(path):
    with spool_at(path, {"run": "42"}) as spool:
        for number in range(5000):
            spool.add([("a", number)], b'{"half')
    corrupt_the_middle(path)
    with spool_at(path) as spool:
        assert spool.corrupt_path is not None
        assert spool.oldest(1)[0].labels == {"run": "42"}
        assert spool.partial_line == b'{"half'


def test_an_unfinished_salvage_begins_anew(path):
    with spool_at(path) as spool:
        for number in range(5000):
            spool.add([("a", number)])
    corrupt_the_middle(path)
    with open(path + ".new", "wb") as file:
        file.write(b"SQLite format 3\0 and the process was killed")
    with spool_at(path) as spool:
        assert spool.corrupt_path == path + ".broken-42"
        assert spool.waiting() > 500
    assert not os.path.exists(path + ".new")


def test_a_salvage_that_was_killed_at_its_end_is_finished_by_the_next_start(path):
    open_and_close(path)
    fill(path + ".saved")
    with spool_at(path) as spool:
        assert spool.corrupt_path == path + ".broken-42"
    assert os.path.exists(path + ".broken-42")
    assert not os.path.exists(path + ".saved")
    assert waiting_at(path) == PAIRS


def test_a_failed_open_leaves_no_descriptor(path):
    change(path, "CREATE TABLE other (a)")
    before = open_descriptors()
    for _ in range(10):
        with pytest.raises(SpoolError):
            open_and_close(path)
    assert open_descriptors() == before


def test_corruption_that_only_the_first_queries_find_is_salvaged(path):
    fill(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_labels_1'"
        (root,) = database.execute(query).fetchone()
        (page_size,) = database.execute("PRAGMA page_size").fetchone()
    page = page_size * (root - 1)
    with open(path, "r+b") as file:
        # https://www.sqlite.org/fileformat2.html: the offset of the first cell is at byte 8 of a
        # leaf page of an index; the size of the header follows the size of the record.
        file.seek(page + 8)
        cell = int.from_bytes(file.read(2), "big")
        file.seek(page + cell + 1)
        file.write(bytes([134]))
    with spool_at(path) as spool:
        assert os.path.exists(spool.corrupt_path)
        spool.add(PAIRS)
        assert spool.waiting() >= len(PAIRS)
