"""The spool: a queue on disk."""

import json
import os
import shutil
import stat
import threading

import pytest

from benchmarkai.daemon import spool as spool_module
from benchmarkai.daemon.spool import Spool, SpoolFull
from tests.helpers import bounded

PAIRS = [("a", 1), ("ö", 0.1), ("big", 10**400), ("min", -(2**63)), ("z", -0.0), ("f", 1.0)]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "spool")


@pytest.fixture
def open_spool(path):
    """A function that opens the spool; all are closed in the end."""
    spools = []

    def call(labels=(), limit=1 << 30, path=path, **options):
        spools.append(Spool(path, dict(labels), limit, **options))
        return spools[-1]

    yield call
    for spool in spools:
        spool.close()


def pairs_of(metrics):
    return [(metric.name, metric.value) for metric in metrics]


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_metrics_survive_a_restart_unchanged_and_in_order(open_spool):
    spool = open_spool({"run": "42"})
    spool.add(PAIRS, b'{"half')
    spool.close()
    spool = open_spool({"run": "43"})
    spool.add([("a", 2)])
    found = spool.oldest(100)
    assert pairs_of(found) == PAIRS + [("a", 2)]
    assert [type(metric.value) for metric in found[:6]] == [int, float, int, int, float, float]
    assert str(found[4].value) == "-0.0"
    assert [metric.labels["run"] for metric in found] == ["42"] * 6 + ["43"]
    assert len({metric.id for metric in found}) == 7
    assert spool.waiting() == 7


def test_a_metric_keeps_its_id(open_spool):
    spool = open_spool()
    spool.add(PAIRS)
    before = [metric.id for metric in spool.oldest(100)]
    spool.close()
    assert [metric.id for metric in open_spool().oldest(100)] == before


def test_the_partial_line_survives_a_restart(open_spool):
    spool = open_spool()
    spool.add([], b'{"half')
    spool.close()
    assert open_spool().partial_line == b'{"half'


def test_removed_metrics_do_not_come_back(open_spool):
    spool = open_spool()
    spool.add(PAIRS)
    spool.remove(spool.oldest(2))
    assert pairs_of(spool.oldest(2)) == PAIRS[2:4]
    spool.close()
    spool = open_spool()
    assert pairs_of(spool.oldest(100)) == PAIRS[2:]
    assert spool.waiting() == 4


@pytest.mark.parametrize("count", [6, 5000])
def test_exactly_the_metrics_that_are_given_are_removed(open_spool, count):
    spool = open_spool()
    spool.add([("a", number) for number in range(count)])
    metrics = spool.oldest(count)
    spool.remove(metrics[::2])
    assert spool.oldest(count) == metrics[1::2]
    assert spool.waiting() == count // 2
    spool.remove([metrics[-1], metrics[0], metrics[1]])  # in any order; one of them is gone
    assert spool.oldest(count) == metrics[3:-1:2]
    assert spool.waiting() == count // 2 - 2
    spool.remove([])
    assert spool.waiting() == count // 2 - 2


def test_times_increase_whatever_the_clock_does(open_spool):
    clock = iter([10, 5, 2, 12]).__next__
    times = []
    for _ in range(2):
        spool = open_spool(clock=clock)
        spool.add([("a", 1), ("b", 2)])
        spool.add([("a", 1)])
        found = spool.oldest(100)
        times += [metric.time for metric in found]
        spool.remove(found)
        spool.close()
    assert times == [11, 12, 13, 14, 15, 16]


def test_only_the_owner_can_read_the_files(path, open_spool):
    old_umask = os.umask(0)
    try:
        spool = open_spool()
        spool.add(PAIRS)
        spool.reject([{"line": "x"}])
    finally:
        os.umask(old_umask)
    for suffix in ("", "-wal", ".refused"):
        assert mode_of(path + suffix) == 0o600


def test_metrics_whose_labels_are_lost_have_none(open_spool):
    spool = open_spool({"run": "42"})
    spool.add(PAIRS)
    spool._database.execute("DELETE FROM labels")
    found = spool.oldest(10)
    assert pairs_of(found) == PAIRS
    assert [metric.labels for metric in found] == [{}] * len(PAIRS)


# A full spool, a full disk


def fill(spool):
    for _ in range(1000):
        if spool.fullness() is not None:
            return
        spool.add([("a" * 100, 1)] * 100)
    pytest.fail("the spool has no limit")


def test_a_spool_is_full_at_its_limit_and_has_room_once_metrics_are_removed(path, open_spool):
    spool = open_spool(limit=100000)
    assert spool.fullness() is None
    fill(spool)
    assert spool.fullness() == f"the spool {path!r} has reached its limit"
    assert os.path.getsize(path) < 1000000
    spool.remove(spool.oldest(100000))
    assert spool.fullness() is None


def test_fullness_has_no_side_effects(path, open_spool):
    spool = open_spool(limit=100000)
    for change in (lambda: None, lambda: fill(spool)):
        change()
        attributes = dict(vars(spool))
        statements = []
        spool._database.set_trace_callback(statements.append)
        changes = spool._database.total_changes
        first = spool.fullness()
        reasons = []
        thread = threading.Thread(target=lambda: reasons.extend([spool.fullness()] * 2))
        thread.start()
        bounded(thread.join)
        assert reasons == [first, first]
        assert vars(spool) == attributes
        assert spool._database.total_changes == changes
        allowed = ("PRAGMA page_count", "PRAGMA freelist_count", "PRAGMA page_size")
        assert set(statements) <= set(allowed)


def test_a_spool_is_full_while_its_disk_is(path, open_spool, monkeypatch):
    spool = open_spool()
    monkeypatch.setattr(spool_module, "_RESERVED", 1 << 60)
    assert spool.fullness() == f"the disk of the spool {path!r} has less than {1 << 40} MiB left"


def test_free_pages_are_given_back_if_the_disk_is_nearly_full(path, open_spool, monkeypatch):
    spool = open_spool()
    spool.add([("a" * 100, 1)] * 5000)
    monkeypatch.setattr(spool_module, "_RESERVED", 1 << 60)
    spool.free_disk_space()
    full_size = os.path.getsize(path)
    assert full_size > 500000
    monkeypatch.setattr(spool_module, "_RESERVED", 0)
    spool.remove(spool.oldest(5000))
    spool.free_disk_space()
    assert os.path.getsize(path) == full_size
    monkeypatch.setattr(spool_module, "_RESERVED", 1 << 60)
    spool.free_disk_space()
    assert os.path.getsize(path) < 50000


def test_a_write_that_the_disk_has_no_room_for_changes_nothing(open_spool):
    spool = open_spool()
    spool.add(PAIRS)
    # As a full disk does, this fails the write.
    spool._database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(SpoolFull, match="cannot write to the spool '.*': .*disk is full"):
        for _ in range(1000):
            spool.add([("b", 1)] * 1000, b"partial")
    metrics = spool.oldest(1 << 20)
    assert pairs_of(metrics)[:6] == PAIRS
    assert len(metrics) == spool.waiting()
    assert len(metrics) % 1000 == 6


# The rejected


def test_rejected_entries_are_kept_as_lines_of_json(path, open_spool):
    spool = open_spool()
    spool.reject([{"line": "ö\n"}])
    spool.reject([{"line": "b"}])
    with open(path + ".refused") as file:
        assert [json.loads(line)["line"] for line in file] == ["ö\n", "b"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/full", path)])
def test_rejected_entries_need_a_regular_file(path, open_spool, make):
    spool = open_spool()
    make(path + ".refused")
    with pytest.raises(SpoolFull, match="cannot write"):
        spool.reject([{"line": "x"}])


# The partial line after a crash


def test_data_that_was_stored_before_a_crash_is_not_joined_to_its_own_end(open_spool):
    stream = b'{"x": 15}\n{"loss": 12}\n'
    spool = open_spool()
    spool.add([], stream[:6], stream[:6])
    spool.add([("x", 15)], stream[10:18], stream[6:18])
    spool.close()
    # The daemon was killed before it took the last data out of the pipe.
    spool = open_spool()
    spool.recover_partial_line(stream[6:])
    assert spool.partial_line + stream[6:] == stream
    spool.close()
    # It was killed after that.
    spool = open_spool()
    spool.recover_partial_line(stream[18:])
    assert spool.partial_line + stream[18:] == stream[10:]


# A removed spool


def test_a_removed_spool_is_created_again_with_its_metrics(path, open_spool):
    spool = open_spool()
    spool.add(PAIRS, b"partial")
    assert not spool.restore_file()
    os.unlink(path)
    assert spool.restore_file()
    spool.add([("new", 1)], b"partial")
    spool.close()
    spool = open_spool()
    assert pairs_of(spool.oldest(10)) == PAIRS + [("new", 1)]
    assert spool.partial_line == b"partial"
    assert mode_of(path) == 0o600


def test_a_spool_whose_folder_is_removed_is_full_until_it_is_back(tmp_path, open_spool):
    folder = tmp_path / "folder"
    folder.mkdir()
    spool = open_spool(path=str(folder / "spool"))
    spool.add(PAIRS)
    shutil.rmtree(folder)
    with pytest.raises(SpoolFull, match="the spool '.*' was removed: unable to open database"):
        spool.restore_file()
    assert pairs_of(spool.oldest(10)) == PAIRS
    folder.mkdir()
    assert spool.restore_file()
    assert pairs_of(spool.oldest(10)) == PAIRS
