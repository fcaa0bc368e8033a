"""The database of the spool: which files are trusted, and what is saved of a corrupt one."""

import contextlib
import itertools
import os
import sqlite3
import stat

import pytest

from benchmarkai.daemon import database as database_module
from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.database import SpoolError, SpoolInUse, count_waiting, open_database
from benchmarkai.daemon.spool import Spool
from tests.daemon.crash import deaths, die, run_in_child
from tests.daemon.harness import open_descriptors, receive
from tests.helpers import bounded

PAIRS = [("a", 1), ("b", 0.5)]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "spool")


class VirtualClock(Clock):
    def time(self):
        return 42


def clock():
    return 42


def open_and_close(path):
    """Return the path of the corrupt database, or None."""
    return open_database(path, clock, lambda database: database.close())


def spool_at(path, labels=()):
    spool = Spool(path, 1 << 30, clock=VirtualClock())
    spool.begin(dict(labels), "stdout")
    return spool


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


SUFFIXES = ["", "-wal", "-shm", "-journal", ".new", ".saved", ".in", ".refused", ".retried"]


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
    path = tmp_path / name
    with pytest.raises(SpoolError) as caught:
        open_and_close(str(path))
    assert str(caught.value) == (
        f"cannot use the spool {str(path)!r}: there is no folder {str(path.parent)!r}: create it"
    )


def test_two_daemons_cannot_share_a_spool(path):
    with spool_at(path), pytest.raises(SpoolInUse) as caught:
        open_and_close(path)
    assert str(caught.value) == (
        f"another daemon uses the spool {path!r}: choose another one (--spool)"
    )


@pytest.mark.parametrize("size, fits", [(500, True), (501, False)])
def test_a_path_that_is_too_long_for_sqlite_is_an_error_that_says_so(tmp_path, size, fits):
    path = str(tmp_path)
    while len(path) < size:
        path = os.path.join(path, "f" * min(200, size - len(path) - 1))
        if len(path) < size:
            os.mkdir(path)
    assert len(path) == size
    if fits:
        fill(path)
        assert waiting_at(path) == PAIRS
        assert count_waiting(path) == len(PAIRS)
        return
    with pytest.raises(SpoolError) as caught:
        open_and_close(path)
    assert str(caught.value) == (
        f"the path of the spool, {path!r}, is longer than the 500 bytes that SQLite accepts: "
        "choose a shorter one (--spool, or TMPDIR)"
    )


def test_a_commit_does_not_wait_for_the_disk(path):
    with spool_at(path) as spool:
        assert spool._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert spool._database.execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL


# The number of metrics in a spool


def test_the_number_of_metrics_is_read_without_a_change(path):
    fill(path)
    before = {name: read(path + name) for name in [""]}
    names = os.listdir(os.path.dirname(path))
    assert count_waiting(path) == 2
    assert {name: read(path + name) for name in [""]} == before
    assert os.listdir(os.path.dirname(path)) == names


def test_the_metrics_of_a_killed_daemon_are_counted(path):
    def add():
        spool_at(path).add(PAIRS)
        die()

    assert run_in_child(add)
    assert count_waiting(path) == 2
    assert waiting_at(path) == PAIRS


def test_the_metrics_of_a_spool_in_use_are_not_counted(path):
    with spool_at(path), pytest.raises(SpoolInUse, match="a daemon uses the spool"):
        count_waiting(path)


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "there is no spool"),
        (b"something else", "is not a spool"),
        (b"", "cannot read the spool '.*': no such table: metrics"),
        (b"SQLite format 3\0 and nothing", "cannot read the spool '.*': "),
    ],
)
def test_what_is_no_spool_has_no_metrics_to_count(path, content, reason):
    if content is not None:
        with open(path, "wb") as file:
            file.write(content)
    with pytest.raises(SpoolError, match=reason):
        count_waiting(path)


def test_counting_does_not_wait_for_a_pipe(path):
    os.mkfifo(path)
    with pytest.raises(SpoolError, match="is not a regular file"):
        bounded(lambda: count_waiting(path), 5)


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


def test_the_state_and_the_partial_line_of_a_corrupt_spool_are_saved(path):
    with spool_at(path, {"run": "42"}) as spool:
        for number in range(5000):
            spool.add([("a", number)])
        receive(spool, b'stored\n{"half')
        spool.add([], 7)
        before = spool.oldest(3)
    corrupt_the_middle(path)
    with Spool(path, 1 << 30) as spool:
        assert spool.corrupt_path is not None
        assert spool.oldest(3) == before  # with their labels and ids
        assert spool.target == "stdout"
        assert spool.pending() == b'{"half'
        last = spool.oldest(10000)[-1].sequence
        spool.add([("a", 1)])
        assert spool.oldest(10000)[-1].sequence > max(last, 5000)


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


@pytest.mark.slow
def test_a_death_during_a_salvage_loses_nothing(tmp_path):
    def prepare(folder):
        with spool_at(folder + "/spool") as spool:
            for number in range(300):
                spool.add([("a" * 100, number)])
        corrupt_the_middle(folder + "/spool", 8000)

    def work(folder):
        with Spool(folder + "/spool", 1 << 30):
            pass

    saved = None
    for folder in deaths(prepare, work, tmp_path, 31):
        with Spool(folder + "/spool", 1 << 30) as spool:
            values = [metric.value for metric in spool.oldest(10000)]
        saved = saved or values
        assert len(saved) > 20 and values == saved
        assert len([name for name in os.listdir(folder) if name.startswith("spool.broken-")]) == 1


# A spool of an earlier version

LAYOUT_1 = """
CREATE TABLE metrics (time INTEGER PRIMARY KEY, name TEXT, value, labels INTEGER);
CREATE TABLE labels (id INTEGER PRIMARY KEY, json TEXT UNIQUE);
CREATE TABLE state (
    id TEXT, last INTEGER, rest BLOB, before BLOB, size INTEGER, digest BLOB
);
INSERT INTO state VALUES ('0123456789abcdef', 0, x'', x'', 0, x'');
PRAGMA user_version = 1;
"""
LAST = 1 << 62  # far in the future


def make_layout_1(path, count=3):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;")
        database.executescript(LAYOUT_1)
        database.execute("INSERT INTO labels VALUES (7, ?)", ('{"run": "42"}',))
        rows = [(10 + number, "a", number, 7) for number in range(count)]
        rows.append((10 + count, "big", str(10**30), 7))
        database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", rows)
        database.execute("UPDATE state SET last = ?, rest = ?", (LAST, b'{"half'))
        database.commit()


def check_layout_1_is_taken_over(path, count=3):
    with Spool(path, 1 << 30, clock=VirtualClock()) as spool:
        found = spool.oldest(count + 10)
        assert [metric.value for metric in found] == [*range(count), 10**30]
        times = list(range(10, 11 + count))
        assert [metric.time for metric in found] == times
        assert [metric.id for metric in found] == [f"0123456789abcdef-{time}" for time in times]
        assert {metric.labels["run"] for metric in found} == {"42"}
        assert spool.pending() == b'{"half'


def test_a_spool_of_layout_1_is_taken_over(path):
    make_layout_1(path)
    assert count_waiting(path) == 4
    for _ in range(2):
        check_layout_1_is_taken_over(path)
    with spool_at(path, {"run": "43"}) as spool:
        assert spool.corrupt_path is None
        spool.add([("new", 1)], 6)
        metric = spool.oldest(10)[-1]
        assert metric.time == 43  # not after the one in the far future
        assert metric.id == f"0123456789abcdef-{LAST + 1}"
        assert metric.labels == {"run": "43"}
    with spool_at(path) as spool:
        assert spool.pending() == b""
        assert spool.waiting() == 5


def test_a_corrupt_spool_of_layout_1_is_salvaged(path):
    make_layout_1(path, 20000)
    corrupt_the_middle(path)
    with Spool(path, 1 << 30, clock=VirtualClock()) as spool:
        assert spool.corrupt_path == path + ".broken-42"
        found = spool.oldest(100000)
        assert [metric.value for metric in found] == list(range(len(found)))
        assert 500 < len(found) < 20000
        assert found[1].id == "0123456789abcdef-11"
        assert found[1].time == 11
        assert found[1].labels == {"run": "42"}
        assert spool.pending() == b'{"half'
        spool.add([("new", 1)])
        assert spool.oldest(100000)[-1].id == f"0123456789abcdef-{LAST + 1}"


@pytest.mark.slow
def test_a_death_while_a_spool_of_layout_1_is_taken_over_loses_nothing(tmp_path):
    def work(folder):
        Spool(folder + "/spool", 1 << 30).close()

    for folder in deaths(lambda folder: make_layout_1(folder + "/spool"), work, tmp_path, 5):
        check_layout_1_is_taken_over(folder + "/spool")


@pytest.mark.slow
def test_a_death_at_any_statement_of_the_change_of_layout_loses_nothing(tmp_path, monkeypatch):
    real_connect = sqlite3.connect
    for number in itertools.count(1):
        path = str(tmp_path / str(number))
        make_layout_1(path)

        def open_and_die(path=path, number=number):
            statements = itertools.count(1)

            def connect(*arguments, **options):
                connection = real_connect(*arguments, **options)
                connection.set_trace_callback(lambda _: next(statements) < number or die())
                return connection

            database_module.sqlite3.connect = connect
            Spool(path, 1 << 30).close()

        died = run_in_child(open_and_die)
        check_layout_1_is_taken_over(path)
        if not died:
            break
    assert number > 20
