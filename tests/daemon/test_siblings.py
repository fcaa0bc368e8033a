"""The spools of runs that overlap."""

import json
import os

import pytest

from benchmarkai.daemon import database
from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.database import SpoolError, SpoolInUse
from benchmarkai.daemon.rejects import line_entry, metric_entry
from benchmarkai.daemon.siblings import absorb_siblings, open_spool
from benchmarkai.daemon.spool import Spool
from tests.daemon.crash import deaths
from tests.daemon.harness import receive
from tests.helpers import run_python

LIMIT = 1 << 30


@pytest.fixture
def path(tmp_path):
    (tmp_path / "folder").mkdir()
    return str(tmp_path / "folder" / "spool")


def open_shared(path, refused_limit=LIMIT):
    return open_spool(path, LIMIT, refused_limit, Clock(), 0, may_share=True)


def fill(path, pairs, labels=(), target="stdout"):
    with Spool(path, LIMIT) as spool:
        spool.begin(dict(labels), target)
        spool.add(pairs)


def values_in(spool):
    return [metric.value for metric in spool.oldest(1000)]


def entries_in(path):
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [json.loads(line) for line in file]


def names_beside(path):
    return sorted(os.listdir(os.path.dirname(path)))


@pytest.mark.slow
def test_each_run_has_a_spool_of_its_own(path, messages):
    with open_shared(path) as first, open_shared(path) as second, open_shared(path) as third:
        assert [first.path, second.path, third.path] == [path, path + ".run2", path + ".run3"]
        with pytest.raises(SpoolInUse):
            open_spool(path, LIMIT, LIMIT, Clock(), 0, may_share=False)
    assert messages() == [
        f"another run uses the spool {path!r}: this one has {path + '.run2'!r}",
        f"another run uses the spool {path!r}: this one has {path + '.run3'!r}",
    ]
    with open_shared(path) as spool:
        assert spool.path == path


def test_a_file_that_is_no_spool_is_an_error(path):
    with open(path, "w") as file:
        file.write("something else")
    with pytest.raises(SpoolError, match="is not a spool"):
        open_shared(path)
    os.unlink(path)
    with open(path + ".run2", "w") as file:
        file.write("something else")
    with open_shared(path), pytest.raises(SpoolError, match="run2' is not a spool"):
        open_shared(path)


def test_what_nobody_uses_is_taken(path, messages):
    fill(path + ".run2", [("a", 1), ("a", 2)], {"run": "2"})
    fill(path + ".run10", [("a", 3)], {"run": "10"})
    fill(path + ".running", [("a", 4)])
    fill(path + ".run", [("a", 5)])
    with Spool(path + ".run2", LIMIT) as sibling:
        ids = [metric.id for metric in sibling.oldest(2)]
    with open_shared(path) as spool:
        spool.begin({}, "stdout")
        absorb_siblings(spool, path, Clock())
        assert sorted(values_in(spool)) == [1, 2, 3]
        found = {metric.value: metric for metric in spool.oldest(10)}
        assert [found[value].labels["run"] for value in (1, 2, 3)] == ["2", "2", "10"]
        assert [found[1].id, found[2].id] == ids
        assert sorted(messages()) == [
            f"took 1 metric from the spool {path + '.run10'!r}",
            f"took 2 metrics from the spool {path + '.run2'!r}",
        ]
    assert names_beside(path) == ["spool", "spool.run", "spool.running"]


@pytest.mark.slow
def test_a_run_with_a_spool_of_its_own_takes_the_first_one_too(path):
    with open_shared(path) as first, open_shared(path) as second:
        second.begin({}, "stdout")
        first.add([("a", 1)])
        absorb_siblings(second, path, Clock())
        assert values_in(second) == []
        first.close()
        absorb_siblings(second, path, Clock())
        assert values_in(second) == [1]
        assert not os.path.exists(path)
        first.__init__(path, LIMIT)


@pytest.mark.slow
def test_spools_in_use_and_files_that_are_no_spools_are_left(path, messages):
    with open(path + ".run3", "w") as file:
        file.write("something else")
    fill(path + ".run4", [("a", 4)])
    with open_shared(path) as first, open_shared(path) as second:
        second.add([("a", 2)])
        messages_before = len(messages())
        absorb_siblings(first, path, Clock())
        assert values_in(first) == [4]
        assert values_in(second) == [2]
        error = messages()[messages_before]
        assert error.startswith(f"cannot take the metrics from {path + '.run3'!r}: ")
    with open(path + ".run3") as file:
        assert file.read() == "something else"


@pytest.mark.slow
def test_a_run_keeps_the_lock_of_its_own_spool(path):
    # If it opened that again, to look into it, the system would drop the lock.
    with open_shared(path), open_shared(path) as second:
        absorb_siblings(second, path, Clock())
        code = "import sys; from benchmarkai.daemon.spool import Spool; Spool(sys.argv[1], 1 << 30)"
        result = run_python(code, second.path)
        assert "another daemon uses the spool" in result.err.splitlines()[-1]


def test_data_that_was_not_stored_yet_is_taken_too(path):
    with Spool(path + ".run2", LIMIT) as sibling:
        sibling.begin({"run": "2"}, "stdout")
        receive(sibling, b'{"a": 1}\nhello\n{"a": 2}')
    with open_shared(path) as spool:
        absorb_siblings(spool, path, Clock())
        assert values_in(spool) == [1, 2]
        assert spool.oldest(1)[0].labels == {"run": "2"}
        assert [entry["line"] for entry in entries_in(spool.rejects.path)] == ["hello"]
    assert names_beside(path) == ["spool", "spool.refused"]


def test_metrics_for_another_server_are_told(path, messages):
    fill(path + ".run2", [("a", 1)], target="elsewhere")
    fill(path + ".run3", [("a", 1)], target="here")
    fill(path + ".run4", [], target="elsewhere")
    with open_shared(path) as spool:
        spool.begin({}, "here")
        absorb_siblings(spool, path, Clock())
    assert [text for text in messages() if "meant" in text] == [
        f"the metrics in {path + '.run2'!r} were meant for elsewhere"
    ]


def reject_line_and_metric(spool):
    """Reject the line x, and the oldest metric, which is returned."""
    (metric,) = spool.oldest(1)
    spool.reject([line_entry(b"x", "bad", 5), metric_entry(metric, "bad")])
    spool.remove([metric])
    return metric


def test_what_was_rejected_comes_too_as_it_is(path):
    fill(path + ".run2", [("a", 1)])
    with Spool(path + ".run2", LIMIT) as sibling:
        metric = reject_line_and_metric(sibling)
        with open(sibling.rejects.path, "ab") as file:
            file.write(b"nonsense \xff\n")
    for _ in range(2):
        with open_shared(path) as spool:
            absorb_siblings(spool, path, Clock())
            with open(spool.rejects.path, "rb") as file:
                first, second, third = file.read().splitlines()
            assert json.loads(first) == line_entry(b"x", "bad", 5)
            assert json.loads(second) == metric_entry(metric, "bad")
            assert third == b"nonsense \xff"
    assert names_beside(path) == ["spool", "spool.refused"]


def test_what_was_rejected_stays_if_there_is_no_room_for_it(path, messages):
    fill(path + ".run2", [("a", 1)])
    with Spool(path + ".run2", LIMIT) as sibling:
        sibling.reject([line_entry(b"x", "bad", 5)])
    with open_shared(path, refused_limit=10) as spool:
        absorb_siblings(spool, path, Clock())
        assert values_in(spool) == [1]
    assert len(entries_in(path + ".run2.refused")) == 1
    assert any("has reached its limit" in message for message in messages())


def test_a_way_back_that_was_not_ended_is_ended(path):
    fill(path + ".run2", [("a", 1)])
    with Spool(path + ".run2", LIMIT) as sibling:
        reject_line_and_metric(sibling)
        sibling.rejects.set_aside()
        receive(sibling, b"y\n")
    with open_shared(path) as spool:
        absorb_siblings(spool, path, Clock())
        assert values_in(spool) == [1]
        assert [entry["line"] for entry in entries_in(spool.rejects.path)] == ["x", "y"]
    assert names_beside(path) == ["spool", "spool.refused"]


def test_a_spool_that_is_taken_while_it_is_opened_is_not_used(path, monkeypatch):
    fill(path, [("a", 1)])
    others = [Spool(path, LIMIT)]
    real_connect = database.sqlite3.connect

    def connect_and_wait(*arguments, **options):
        connection = real_connect(*arguments, **options)
        if others:
            with others.pop() as other:
                other.delete()
        return connection

    with monkeypatch.context() as patches:
        patches.setattr(database.sqlite3, "connect", connect_and_wait)
        with Spool(path, LIMIT) as spool:
            assert values_in(spool) == []
            spool.add([("a", 2)])
            assert spool.exists()
    with Spool(path, LIMIT) as spool:
        assert values_in(spool) == [2]


def test_the_last_lines_of_another_run_get_times_that_are_a_step_apart(path):
    with Spool(path + ".run2", LIMIT) as sibling:
        sibling.begin({}, "stdout")
        receive(sibling, b'{"a": 1}\n{"a": 2}\n')
    with open_spool(path, LIMIT, LIMIT, Clock(), 10**6, may_share=True) as spool:
        absorb_siblings(spool, path, Clock())
        one, two = spool.oldest(10)
        assert two.time - one.time == 10**6


@pytest.mark.slow
def test_a_death_while_metrics_are_taken_neither_loses_nor_doubles_any(tmp_path):
    def prepare(folder):
        with Spool(folder + "/spool.run2", LIMIT) as sibling:
            sibling.begin({"run": "2"}, "stdout")
            receive(sibling, b'{"a": 1}\n{"a": 2}\n')
            sibling.add([("a", 1)], 9)
            sibling.reject([line_entry(b"x", "bad", 5)])

    def work(folder):
        with open_shared(folder + "/spool") as spool:
            absorb_siblings(spool, folder + "/spool", Clock())

    for folder in deaths(prepare, work, tmp_path, 23):
        path = folder + "/spool"
        with open_shared(path) as spool:
            absorb_siblings(spool, path, Clock())
            # A new run in the same place finds nothing of the old one.
            with Spool(path + ".run2", LIMIT) as sibling:
                assert sibling.pending() == b""
            absorb_siblings(spool, path, Clock())
            assert values_in(spool) == [1, 2]
            lines = [entry["line"] for entry in entries_in(spool.rejects.path)]
            assert set(lines) == {"x"}
        assert set(os.listdir(folder)) <= {"spool", "spool.refused", "spool.in.new"}
