import json
import os
import sqlite3
import stat

import pytest

from benchmarkai.daemon.spool import Spool, SpoolError, SpoolFull


@pytest.fixture
def path(tmpdir):
    return str(tmpdir.join("spool"))


def spool_at(path, labels=(), limit=1 << 30, **options):
    return Spool(path, dict(labels), limit, **options)


def shown(metrics):
    return [(metric.name, metric.value) for metric in metrics]


METRICS = [("a", 1), ("ö", 0.1), ("big", 10**400), ("min", -(2**63)), ("z", -0.0), ("f", 1.0)]


def test_metrics_survive_a_restart_as_they_are_and_in_order(path):
    spool = spool_at(path, {"run": "42"})
    spool.add(METRICS, b'{"half')
    spool.close()
    spool = spool_at(path, {"run": "43"})
    spool.add([("a", 2)])
    found = spool.oldest(100)
    assert shown(found) == METRICS + [("a", 2)]
    assert [type(metric.value) for metric in found[:6]] == [int, float, int, int, float, float]
    assert str(found[4].value) == "-0.0"
    assert [metric.labels["run"] for metric in found] == ["42"] * 6 + ["43"]
    assert len({metric.id for metric in found}) == 7
    assert spool.waiting() == 7


def test_the_rest_of_a_line_survives_a_restart(path):
    spool = spool_at(path)
    spool.add([], b'{"half')
    spool.close()
    assert spool_at(path).rest == b'{"half'


def test_what_was_removed_does_not_come_again(path):
    spool = spool_at(path)
    spool.add(METRICS)
    spool.remove(spool.oldest(2))
    assert shown(spool.oldest(2)) == METRICS[2:4]
    spool.close()
    spool = spool_at(path)
    assert shown(spool.oldest(100)) == METRICS[2:]
    assert spool.waiting() == 4


def test_times_increase_whatever_the_clock_does(path):
    clock = iter([10, 5, 2, 12]).__next__
    times = []
    for _ in range(2):
        spool = spool_at(path, clock=clock)
        spool.add([("a", 1), ("b", 2)])
        spool.add([("a", 1)])
        found = spool.oldest(100)
        times += [metric.time for metric in found]
        spool.remove(found)
        spool.close()
    assert times == [11, 12, 13, 14, 15, 16]


def test_only_its_owner_can_read_it(path):
    old = os.umask(0)
    try:
        spool = spool_at(path)
        spool.add(METRICS)
        spool.refuse([{"line": "x"}])
    finally:
        os.umask(old)
    for ending in ("", "-wal", ".refused"):
        assert stat.S_IMODE(os.stat(path + ending).st_mode) == 0o600


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", ".refused"])
def test_what_is_no_file_of_the_user_is_refused(path, tmpdir, ending):
    private = tmpdir.join("private")
    private.write("private")
    os.symlink(str(private), path + ending)
    with pytest.raises(SpoolError, match="is not a regular file, and was left as it is"):
        spool_at(path)
    assert private.read() == "private"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_spool_of_somebody_else_is_refused(path):
    spool_at(path).close()
    os.chown(path, 12345, -1)
    with pytest.raises(SpoolError, match="belongs to the user 12345"):
        spool_at(path)


def test_two_daemons_cannot_share_it(path):
    first = spool_at(path)
    first.add(METRICS)
    with pytest.raises(SpoolError, match="another daemon uses the spool"):
        spool_at(path)


def test_it_is_full_at_its_limit_and_has_room_again(path):
    spool = spool_at(path, limit=100000)
    assert spool.fullness() is None
    while spool.fullness() is None:
        spool.add([("a" * 100, 1)] * 100)
    assert spool.fullness() == "the spool %r has reached its limit" % path
    assert os.path.getsize(path) < 1000000
    spool.remove(spool.oldest(100000))
    assert spool.fullness() is None


def test_a_broken_spool_is_put_aside_and_what_can_be_read_is_saved(path):
    spool = spool_at(path)
    for number in range(5000):
        spool.add([("a", number)])
    spool.close()
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        file.write(b"\xff" * 20000)
    spool = spool_at(path)
    assert os.path.exists(spool.salvaged)
    count = spool.waiting()
    values = [metric.value for metric in spool.oldest(10000)]
    assert values == list(range(count))
    assert count > 500
    spool.add([("a", -1)])
    assert spool.waiting() == count + 1


def test_what_never_was_a_spool_is_refused_and_left(path):
    with open(path, "w") as file:
        file.write("something else" * 1000)
    os.chmod(path, 0o644)
    with pytest.raises(SpoolError, match="is not a spool, and was left as it is"):
        spool_at(path)
    with open(path) as file:
        assert file.read() == "something else" * 1000
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644


def test_an_empty_file_becomes_a_spool_of_its_owner_alone(path):
    with open(path, "w"):
        os.chmod(path, 0o644)
    spool_at(path).add(METRICS)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_folder_that_is_not_there_is_an_error(path):
    with pytest.raises(SpoolError, match="No such file or directory"):
        spool_at(path + "/in/no/folder")


def test_a_spool_of_a_newer_version_is_refused(path):
    spool_at(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(SpoolError, match="is not a spool of this version"):
        spool_at(path)


def test_without_room_on_the_disk_it_says_so_and_keeps_what_it_has(path):
    spool = spool_at(path)
    spool.add(METRICS)
    # As a full disk does, this fails the write.
    spool._database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(SpoolFull, match="disk is full"):
        while True:
            spool.add([("b", 1)] * 1000, b"rest")
    metrics = spool.oldest(1 << 20)
    assert shown(metrics)[:6] == METRICS
    assert len(metrics) == spool.waiting()


def test_the_refused_are_kept_as_lines_of_json(path):
    spool = spool_at(path)
    spool.refuse([{"line": "ö\n"}])
    spool.refuse([{"line": "b"}])
    with open(path + ".refused") as file:
        assert [json.loads(line)["line"] for line in file] == ["ö\n", "b"]


def test_what_was_added_and_not_taken_out_is_not_joined_to_its_own_end(path):
    stream = b'{"x": 15}\n{"loss": 12}\n'
    spool = spool_at(path)
    spool.add([], stream[:6], stream[:6])
    spool.add([("x", 15)], stream[10:18], stream[6:18])
    spool.close()  # and the last bytes have not been taken out of the pipe
    spool = spool_at(path)
    spool.recall(stream[6:])
    assert spool.rest + stream[6:] == stream
    spool.close()
    # They have been taken out.
    spool = spool_at(path)
    spool.recall(stream[18:])
    assert spool.rest + stream[18:] == stream[10:]


def test_a_journal_of_somebody_else_is_refused(path):
    spool_at(path).close()
    os.symlink("/dev/null", path + "-journal")
    with pytest.raises(SpoolError, match="is not a regular file"):
        spool_at(path)


def test_a_database_of_another_kind_is_refused_and_left(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE other (a)")
    database.commit()
    database.close()
    with open(path, "rb") as file:
        before = file.read()
    with pytest.raises(SpoolError, match="is not a spool of this version, and was left"):
        spool_at(path)
    with open(path, "rb") as file:
        assert file.read() == before


def test_killed_while_a_broken_spool_is_saved_the_next_start_ends_it(path):
    spool_at(path).close()
    spool = spool_at(path + ".saved")
    spool.add(METRICS)
    spool.close()
    spool = spool_at(path)
    assert shown(spool.oldest(10)) == METRICS
    assert os.path.exists(spool.salvaged)


def test_metrics_whose_labels_were_broken_are_saved_without(path):
    spool = spool_at(path, {"run": "42"})
    spool.add(METRICS)
    spool._database.execute("DELETE FROM labels")
    assert shown(spool.oldest(10)) == METRICS
    assert {str(metric.labels) for metric in spool.oldest(10)} == {"{}"}


def test_a_spool_that_is_removed_is_made_anew_with_what_is_in_it(path):
    spool = spool_at(path)
    spool.add(METRICS, b"rest")
    assert not spool.renew()
    os.unlink(path)
    assert spool.renew()
    spool.add([("new", 1)], b"rest")
    spool.close()
    spool = spool_at(path)
    assert shown(spool.oldest(10)) == METRICS + [("new", 1)]
    assert spool.rest == b"rest"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_at_the_path_of_the_refused_is_an_error(path, make):
    spool = spool_at(path)
    make(path + ".refused")
    with pytest.raises(SpoolFull, match="cannot write"):
        spool.refuse([{"line": "x"}])
