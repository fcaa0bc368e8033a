"""The spool: a queue on disk."""

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import threading

import pytest

from benchmarkai.daemon import database
from benchmarkai.daemon import spool as spool_module
from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.pipe import Pipe
from benchmarkai.daemon.spool import Spool, SpoolFull
from tests.daemon.crash import deaths, small_disk
from tests.helpers import bounded

PAIRS = [("a", 1), ("ö", 0.1), ("big", 10**400), ("min", -(2**63)), ("z", -0.0), ("f", 1.0)]


SECOND = 10**9
YEAR = 365 * 24 * 3600 * SECOND


class VirtualClock(Clock):
    def __init__(self, now=0):
        self.now = now
        self.seconds = 0.0

    def time(self):
        return self.now

    def monotonic(self):
        return self.seconds


@pytest.fixture
def pipe(tmp_path):
    with Pipe(str(tmp_path / "pipe"), 0o622) as pipe:
        yield pipe


def write(pipe, data):
    descriptor = os.open(pipe.path, os.O_WRONLY | os.O_NONBLOCK)
    assert os.write(descriptor, data) == len(data)
    os.close(descriptor)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "spool")


@pytest.fixture
def open_spool(path):
    """A function that opens the spool; all are closed in the end."""
    spools = []

    def call(labels=(), limit=1 << 30, path=path, **options):
        spools.append(Spool(path, limit, **options))
        spools[-1].begin(dict(labels), "stdout")
        return spools[-1]

    yield call
    for spool in spools:
        with contextlib.suppress(ValueError):  # it is closed already
            spool.close()


def pairs_of(metrics):
    return [(metric.name, metric.value) for metric in metrics]


def id_of(metric):
    return metric.id


def key_of(metric):
    """Return what stays the same when a metric comes to another spool."""
    return (metric.id, metric.time, metric.name, metric.value, metric.labels)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_metrics_survive_a_restart_unchanged_and_in_order(open_spool):
    spool = open_spool({"run": "42"})
    spool.add(PAIRS)
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


def test_integers_of_any_size_survive(open_spool):
    values = [sign * (2**63 + more) for sign in (1, -1) for more in (-2, -1, 0, 1)]
    spool = open_spool()
    spool.add([("a", value) for value in values])
    assert [metric.value for metric in spool.oldest(10)] == values


def test_a_journal_that_cannot_be_used_is_an_error_and_releases_the_spool(path):
    os.makedirs(path + ".in.broken/full")
    with open(path + ".in", "w") as file:
        file.write("of somebody else")
    with pytest.raises(database.SpoolError) as caught:
        Spool(path, 1 << 30)
    assert str(caught.value) == f"cannot use the spool {path!r}: {path}.in: Is a directory"
    os.unlink(path + ".in")
    Spool(path, 1 << 30).close()
    del caught


def test_a_folder_is_created_again_for_its_owner_alone(tmp_path):
    old_umask = os.umask(0)
    try:
        for _ in range(2):
            spool_module.make_folder(str(tmp_path / "folder" / "spool"))
    finally:
        os.umask(old_umask)
    assert mode_of(tmp_path / "folder") == 0o700


def test_a_metric_keeps_its_id(open_spool):
    spool = open_spool()
    spool.add(PAIRS)
    before = [metric.id for metric in spool.oldest(100)]
    spool.close()
    assert [metric.id for metric in open_spool().oldest(100)] == before


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


def test_only_the_metrics_after_a_number_are_returned_if_asked(open_spool):
    spool = open_spool()
    spool.add(PAIRS)
    metrics = spool.oldest(100)
    assert [metric.sequence for metric in metrics] == [1, 2, 3, 4, 5, 6]
    assert spool.oldest(2, after=metrics[1].sequence) == metrics[2:4]
    assert spool.oldest(100, after=metrics[-1].sequence) == []


def series_of(metric):
    return metric.name, metric.labels


def test_a_sample_is_the_newest_metric_some_others_and_the_oldest_of_their_series(open_spool):
    spool = open_spool({"run": "1"})
    assert spool.sample(4) == []
    spool.add([("a", 1), ("b", 2), ("a", 3)])
    spool.begin({"run": "2"}, "stdout")
    spool.add([("a", 4), ("b", 5), ("a", 6)])
    metrics = spool.oldest(100)
    seen = []
    for _ in range(200):
        sample = spool.sample(4)
        assert len(sample) <= 4
        assert [metric.sequence for metric in sample] == sorted({each.sequence for each in sample})
        assert metrics[3] in sample and metrics[5] in sample
        for metric in sample:
            series = [each for each in metrics if series_of(each) == series_of(metric)]
            assert series[0] in sample
        seen += sample
    assert {metric.sequence for metric in seen} == {1, 2, 3, 4, 5, 6}
    spool.remove(metrics[:-1])
    assert spool.sample(4) == metrics[-1:]


def test_the_oldest_time_is_that_of_the_first_metric(open_spool):
    spool = open_spool(clock=VirtualClock(1000))
    assert spool.oldest_time() is None
    spool.add(PAIRS)
    assert spool.oldest_time() == 1001
    spool.remove(spool.oldest(2))
    assert spool.oldest_time() == 1003


def test_the_times_of_a_series_are_a_step_apart_also_after_a_restart(open_spool):
    clock = VirtualClock(10**15)
    spool = open_spool(clock=clock, time_step=1000)
    spool.add([("a", 1), ("a", 2), ("b", 3)])
    spool.close()
    spool = open_spool(clock=clock, time_step=1000)
    spool.add([("a", 4)])
    one, two, three, four = (moment - 10**15 for moment in times_of(spool))
    assert (one, two, three) == (1, 1001, 3)
    assert four >= two + 1000
    assert spool.shared_times() == 0


def test_a_burst_of_a_series_shares_steps_beyond_ten_seconds(open_spool):
    spool = open_spool(clock=VirtualClock(10**15), time_step=SECOND)
    spool.add([("a", number) for number in range(12)])
    assert spool.shared_times() == 2
    assert times_of(spool)[-3:] == [10**15 + 9 * SECOND + number for number in (1, 2, 3)]


def test_what_cannot_be_stored_takes_no_time(open_spool):
    spool = open_spool(clock=VirtualClock(10**15), time_step=SECOND)
    pages = spool._one("PRAGMA page_count")[0]
    spool._one(f"PRAGMA max_page_count = {pages}")
    for _ in range(3):
        with pytest.raises(SpoolFull):
            spool.add([("a", 1), ("b" * 100000, 2)])
    spool._one("PRAGMA max_page_count = 1000000")
    spool.add([("a", 1)])
    assert times_of(spool) == [10**15 + 1]


def test_a_spool_with_metrics_for_another_server_says_so(open_spool):
    spool = open_spool()
    assert spool.begin({}, "one") is None
    spool.add(PAIRS)
    assert spool.begin({}, "one") is None
    spool.close()
    spool = Spool(spool.path, 1 << 30)
    assert spool.target == "one"
    assert spool.begin({}, "two") == "one"
    assert spool.target == "two"
    assert spool.begin({}, "two") is None
    spool.remove(spool.oldest(100))
    assert spool.begin({}, "three") is None
    spool.close()


# Times


def times_of(spool):
    return [metric.time for metric in spool.oldest(1 << 20)]


def test_times_increase_while_the_clock_is_a_little_behind(open_spool, messages):
    clock = VirtualClock()
    for now in (10, 5, 2, 12):
        clock.now = now
        spool = open_spool(clock=clock)
        spool.add([("a", 1), ("b", 2)])
        spool.add([("a", 1)])
        spool.close()
    spool = open_spool(clock=clock)
    assert times_of(spool) == list(range(11, 23))
    clock.now = 10**15
    spool.add([("a", 1)])
    clock.now = 10**15 + 1 - 60 * SECOND
    spool.add([("a", 1)])
    assert times_of(spool)[-2:] == [10**15 + 1, 10**15 + 2]
    assert messages() == []


def test_times_follow_a_clock_that_was_set_back_further(open_spool, messages):
    clock = VirtualClock(10**15)
    spool = open_spool(clock=clock)
    spool.add([("a", 1), ("b", 2)])
    clock.now = 10**15 + 1 - 60 * SECOND
    spool.add([])
    assert messages() == []
    spool.add([("a", 3)])
    spool.add([("b", 4)])
    assert times_of(spool) == [10**15 + 1, 10**15 + 2, clock.now + 1, clock.now + 2]
    assert [metric.value for metric in spool.oldest(10)] == [1, 2, 3, 4]
    assert messages() == [
        "the clock is 60 s behind the newest metric: it was set back, or was wrong before; times "
        "follow the clock"
    ]


def test_times_are_right_again_after_a_jump_by_a_year_and_back(open_spool, messages):
    now = 17 * 10**17
    clock = VirtualClock(now + YEAR)
    spool = open_spool(clock=clock)
    spool.add([("a", 1)])
    spool.close()
    clock.now = now
    spool = open_spool(clock=clock)
    for _ in range(2):
        clock.now += SECOND
        spool.add([], 0)
        spool.add([("a", 1)])
    assert times_of(spool) == [now + YEAR + 1, now + SECOND + 1, now + 2 * SECOND + 1]
    assert len({metric.id for metric in spool.oldest(10)}) == 3
    (message,) = messages()
    assert message.startswith(f"the clock is {YEAR // SECOND - 1} s behind the newest metric")


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


@pytest.mark.parametrize("number", [1, 99, 100, 101, 200, 1234])
def test_metrics_come_out_as_they_came_in_however_many_at_once(open_spool, number):
    spool = open_spool()
    pairs = [(f"layer{n}", n / 7) for n in range(number)]
    spool.add(pairs)
    assert pairs_of(spool.oldest(number + 1)) == pairs
    assert [metric.sequence for metric in spool.oldest(number)] == list(range(1, number + 1))


def test_a_write_that_the_disk_has_no_room_for_changes_nothing(open_spool):
    spool = open_spool()
    spool.add(PAIRS)
    # As a full disk does, this fails the write.
    spool._database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(SpoolFull, match="cannot write to the spool '.*': .*disk is full"):
        for _ in range(1000):
            spool.add([("b", 1)] * 1000)
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


# Removed files


def test_a_removed_spool_is_created_again_with_its_metrics(path, open_spool):
    spool = open_spool()
    spool.add(PAIRS)
    assert not spool.restore_files()
    os.unlink(path)
    assert not spool.exists()
    assert spool.restore_files()
    assert spool.exists()
    spool.add([("new", 1)])
    spool.close()
    spool = open_spool()
    assert pairs_of(spool.oldest(10)) == PAIRS + [("new", 1)]
    assert mode_of(path) == 0o600


def test_a_removed_folder_is_created_again_with_its_files(tmp_path, open_spool, pipe):
    folder = tmp_path / "folder"
    folder.mkdir()
    spool = open_spool({"run": "42"}, path=str(folder / "spool"))
    write(pipe, b"stored\npartial")
    spool.receive(pipe)
    spool.add(PAIRS, 7)
    before = spool.oldest(10)
    shutil.rmtree(folder)
    assert spool.disk_free() is None
    assert spool.fullness() is None
    assert spool.restore_files()
    assert mode_of(folder) == 0o700
    assert not spool.restore_files()
    spool.close()
    with Spool(str(folder / "spool"), 1 << 30) as spool:
        assert spool.oldest(10) == before
        assert spool.pending() == b"partial"


def test_a_removed_journal_is_created_again(path, open_spool, pipe):
    spool = open_spool()
    write(pipe, b"partial")
    spool.receive(pipe)
    os.unlink(path + ".in")
    assert spool.restore_files()
    assert not spool.restore_files()
    spool.close()
    assert open_spool().pending() == b"partial"


def test_a_spool_whose_folder_cannot_be_created_goes_on_in_its_open_files(
    tmp_path, open_spool, pipe
):
    folder = tmp_path / "folder"
    folder.mkdir()
    clock = VirtualClock()
    spool = open_spool(path=str(folder / "spool"), clock=clock)
    spool.add(PAIRS)
    shutil.rmtree(folder)
    folder.write_text("a file in its place")
    with pytest.raises(SpoolFull, match="the spool '.*' was removed: .*Not a directory"):
        spool.restore_files()
    write(pipe, b"a=1\npartial")
    spool.receive(pipe)
    spool.add([("a", 1)], 4)
    assert pairs_of(spool.oldest(10)) == PAIRS + [("a", 1)]
    spool.remove(spool.oldest(2))
    assert not spool.exists()
    folder.unlink()
    clock.seconds += 0.9
    assert not spool.restore_files()  # it does not try all the time
    clock.seconds += 0.1
    assert spool.restore_files()
    spool.close()
    with Spool(str(folder / "spool"), 1 << 30) as spool:
        assert pairs_of(spool.oldest(10)) == PAIRS[2:] + [("a", 1)]
        assert spool.pending() == b"partial"


def test_a_spool_that_cannot_be_opened_again_has_no_room_until_it_can(
    path, open_spool, monkeypatch
):
    def fail(path):
        raise sqlite3.OperationalError("no more files")

    clock = VirtualClock()
    spool = open_spool(clock=clock)
    spool.add(PAIRS)
    os.unlink(path)
    with monkeypatch.context() as patches:
        patches.setattr(database, "connect", fail)
        with pytest.raises(SpoolFull, match="was removed: no more files"):
            spool.restore_files()
    assert not spool.exists()
    for action in (spool.fullness, lambda: spool.oldest(1), lambda: spool.add([("a", 1)])):
        with pytest.raises(SpoolFull):
            action()
    assert not spool.restore_files()
    clock.seconds += 1.0
    assert spool.restore_files()
    assert pairs_of(spool.oldest(10)) == PAIRS
    spool.add([("a", 1)])
    assert spool.waiting() == 7


def test_a_disk_without_room_for_the_new_file_is_tried_again(tmp_path, open_spool):
    clock = VirtualClock()
    with small_disk(str(tmp_path / "disk"), 1 << 20) as folder:
        path = os.path.join(folder, "spool")
        spool = open_spool(path=path, clock=clock)
        spool.add([("a" * 100, number) for number in range(3000)])
        os.unlink(path)
        with open(os.path.join(folder, "ballast"), "wb", 0) as ballast:
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(b"x" * 4096)
        for _ in range(3):
            with pytest.raises(SpoolFull, match="was removed: "):
                spool.restore_files()
            assert not spool.exists()
            clock.seconds += 1.0
        os.unlink(os.path.join(folder, "ballast"))
        subprocess.run(["mount", "-o", f"remount,size={8 << 20}", folder], check=True)
        assert spool.restore_files()
        assert spool.exists()
        spool.add([("b", 1)])
        spool.close()
        with Spool(path, 1 << 30) as spool:
            assert [metric.value for metric in spool.oldest(5000)] == [*range(3000), 1]


@pytest.mark.slow
def test_a_death_while_files_are_restored_leaves_none_that_are_corrupt(tmp_path):
    def work(folder):
        spool = Spool(folder + "/spool", 1 << 30)
        spool.add([("a" * 100, number) for number in range(300)])
        spool.remove(spool.oldest(10))
        os.unlink(folder + "/spool")
        spool.restore_files()
        spool.close()

    for folder in deaths(lambda folder: None, work, tmp_path, 41):
        with Spool(folder + "/spool", 1 << 30) as spool:
            assert spool.corrupt_path is None
            count = spool.waiting()
            values = [metric.value for metric in spool.oldest(5000)]
            assert len(values) == count
            assert values in ([], list(range(300)), list(range(10, 300)))
    assert values == list(range(10, 300))


def test_the_files_of_a_deleted_spool_are_gone(tmp_path, open_spool):
    (tmp_path / "folder").mkdir()
    spool = open_spool(path=str(tmp_path / "folder" / "spool"))
    spool.add(PAIRS)
    spool.delete()
    spool.close()
    assert os.listdir(tmp_path / "folder") == []


# Metrics from another spool


def test_the_metrics_of_another_spool_keep_everything_and_come_last(tmp_path, open_spool):
    spool = open_spool({"run": "1"})
    spool.add([("a", 1)])
    other = open_spool({"run": "2"}, path=str(tmp_path / "other"))
    other.add([("b", number) for number in range(2500)])
    other.add(PAIRS)
    expected = [key_of(metric) for metric in spool.oldest(1) + other.oldest(10000)]
    assert spool.absorb(other) == 2506
    assert [key_of(metric) for metric in spool.oldest(10000)] == expected
    assert spool.absorb(other) == 0
    assert spool.waiting() == 2507
    spool.add([("z", 1)])
    spool.close()
    spool = open_spool()
    assert [key_of(metric) for metric in spool.oldest(10000)][:-1] == expected
    assert pairs_of(spool.oldest(10000))[-1] == ("z", 1)
    assert spool.absorb(other) == 0
