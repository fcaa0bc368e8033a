"""The file of what was rejected, and its way back."""

import json
import os
import resource
import stat
from unittest.mock import Mock

import pytest

from benchmarkai.daemon import app
from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.pipe import Pipe
from benchmarkai.daemon.rejects import RejectsFile, line_entry, metric_entry
from benchmarkai.daemon.spool import Spool, SpoolFull
from tests.daemon.crash import deaths

METRICS = [
    Metric("other-7", 10, "a", 1, {"run": "42"}),
    Metric("other-8", 11, "ö", 0.5, {}),
    Metric("other-9", 12, "big", 10**400, {}),
]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "spool.refused")


@pytest.fixture
def rejects(path):
    return RejectsFile(path, 1 << 20)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def entries_in(path):
    return [json.loads(line) for line in read(path).splitlines()] if os.path.exists(path) else []


def take_back(rejects, default_id="own"):
    rejects.set_aside()
    metrics = rejects.take_back(default_id)
    rejects.done()
    return metrics


def test_entries_are_kept_as_lines_of_json_that_only_the_owner_can_read(path, rejects):
    old_umask = os.umask(0)
    try:
        rejects.append([line_entry(b"\xff\xc3\xb6\n", "bad", 5)])
    finally:
        os.umask(old_umask)
    rejects.append([metric_entry(METRICS[0], "worse"), metric_entry(METRICS[1], "worse")])
    assert entries_in(path) == [
        {"time": 5, "line": "\\xffö\n", "reason": "bad"},
        {
            "id": "other-7",
            "time": 10,
            "name": "a",
            "value": 1,
            "labels": {"run": "42"},
            "reason": "worse",
        },
        {
            "id": "other-8",
            "time": 11,
            "name": "ö",
            "value": 0.5,
            "labels": {},
            "reason": "worse",
        },
    ]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_beyond_its_limit_entries_are_told_once_and_not_kept(path, messages):
    size = len(json.dumps(line_entry(b"1", "bad", 5))) + 1
    rejects = RejectsFile(path, 3 * size)
    for number in range(3):
        rejects.append([line_entry(b"%d" % number, "bad", 5)])
    assert messages() == []
    for number in range(3):
        rejects.append([line_entry(b"x", "bad", 5)])
    assert [entry["line"] for entry in entries_in(path)] == ["0", "1", "2"]
    told = (
        f"{path} has reached its limit of {3 * size} bytes: what is rejected from now on is "
        "counted, and not kept; move the file away, or raise --refused-limit"
    )
    assert messages() == [told]
    os.unlink(path)
    rejects.append([line_entry(b"y", "bad", 5)] * 2)
    assert len(entries_in(path)) == 2
    rejects.append([line_entry(b"y", "bad", 5)] * 2)
    assert messages() == [told] * 2


def test_a_file_that_was_at_its_limit_before_is_told_too(path, rejects, messages):
    rejects.append([line_entry(b"x", "bad", 5)])
    for _ in range(2):
        RejectsFile(path, 10).append([line_entry(b"y", "bad", 5)])
    assert len(entries_in(path)) == 1
    assert len(messages()) == 2


def test_the_entries_of_another_file_are_moved_if_there_is_room(path, rejects):
    other = RejectsFile(path + ".2.refused", 1 << 20)
    rejects.absorb(other)
    assert not os.path.exists(path)
    other.append([line_entry(b"x", "bad", 5)])
    RejectsFile(path, 10).absorb(other)
    assert len(entries_in(other.path)) == 1
    rejects.absorb(other)
    rejects.absorb(other)
    assert entries_in(path) == [line_entry(b"x", "bad", 5)]
    assert not os.path.exists(other.path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/full", path)])
def test_it_is_a_regular_file(path, rejects, make):
    make(path)
    with pytest.raises(OSError):
        rejects.append([line_entry(b"x", "bad", 5)])


def test_an_entry_that_cannot_be_written_leaves_nothing_behind(path, rejects):
    rejects.append([line_entry(b"1", "bad", 5)])
    before = read(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError):
            rejects.append([line_entry(b"2", "bad", 5)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read(path) == before


# The way back


def test_metrics_come_back_unchanged_and_lines_stay(path, rejects):
    lines = [line_entry(b"1", "bad", 5), line_entry(b"2", "bad", 6)]
    metrics = [metric_entry(metric, "bad") for metric in METRICS]
    rejects.append([lines[0], *metrics, lines[1]])
    assert take_back(rejects) == METRICS
    assert entries_in(path) == lines
    assert os.listdir(os.path.dirname(path)) == ["spool.refused"]
    before = read(path)
    assert take_back(rejects) == []
    assert read(path) == before


def test_a_file_of_metrics_alone_is_gone_afterwards(path, rejects):
    assert take_back(rejects) == []
    rejects.append([metric_entry(METRICS[0], "bad")])
    assert take_back(rejects) == METRICS[:1]
    assert os.listdir(os.path.dirname(path)) == []


def test_an_old_entry_without_an_id_gets_that_of_its_time(rejects):
    entry = metric_entry(METRICS[0], "bad")
    rejects.append([{key: entry[key] for key in entry if key != "id"}, {**entry, "id": ""}])
    assert take_back(rejects) == [METRICS[0]._replace(own_id="own-10")] * 2


ENTRY = dict(metric_entry(METRICS[0], "bad"))

NONSENSE = [
    b"",
    b"{",
    b"\xff",
    b"[]",
    b"1",
    b"null",
    b'"text"',
    *(
        json.dumps({**ENTRY, **change}).encode()
        for change in [
            {"name": ""},
            {"name": 1},
            {"name": None},
            {"value": "1"},
            {"value": True},
            {"value": None},
            {"value": float("nan")},
            {"labels": []},
            {"labels": "text"},
            {"labels": {"a": 1}},
            {"labels": None},
            {"time": "1"},
            {"time": 1.5},
            {"time": None},
            {"id": 1},
            {"id": None},
            {"time": True},
            {"time": -1},
            {"time": 2**63},
            {"name": "\ud800"},
            {"labels": {"\ud800": "1"}},
            {"labels": {"a": "\ud800"}},
            {"id": "\ud800"},
        ]
    ),
    b"[" * 100000,
    json.dumps(ENTRY).encode().replace(b": 1,", b": " + b"9" * 5000 + b",", 1),
    *(
        json.dumps({key: ENTRY[key] for key in ENTRY if key != gone}).encode()
        for gone in ("name", "value", "labels", "time")
    ),
]


@pytest.mark.parametrize("line", NONSENSE, ids=lambda line: repr(line[:20]))
def test_what_somebody_has_broken_stays(path, rejects, line):
    rejects.append([ENTRY])
    with open(path, "ab") as file:
        file.write(line + b"\n")
    rejects.append([ENTRY])
    assert take_back(rejects) == METRICS[:1] * 2
    assert read(path) == line + b"\n"


def test_an_entry_after_a_line_without_an_end_is_not_joined_to_it(path, rejects):
    rejects.append([ENTRY])
    with open(path, "ab") as file:
        file.write(b"nonsense")
    rejects.append([ENTRY])
    rejects.append([ENTRY])
    assert take_back(rejects) == METRICS[:1] * 3
    assert read(path) == b"nonsense\n"


def test_a_file_of_another_user_is_not_filled_with_what_stays(path, rejects):
    rejects.append([line_entry(b"x", "bad", 5)])
    for suffix in (".new", ".retried.new"):
        os.mkfifo(path + suffix)
        os.mkfifo(path.replace(".refused", suffix))
    assert take_back(rejects) == []
    assert [entry["line"] for entry in entries_in(path)] == ["x"]


# Into the spool


def test_metrics_return_to_their_place_in_the_spool_with_their_ids(tmp_path):
    with Spool(str(tmp_path / "spool"), 1 << 30) as spool:
        spool.begin({"run": "42"}, "stdout")
        spool.add([("a", number) for number in range(4)])
        metrics = spool.oldest(10)
        for metric in (metrics[2], metrics[0]):
            spool.reject([metric_entry(metric, "bad")])
            spool.remove([metric])
        spool.reject([metric_entry(METRICS[0], "bad"), line_entry(b"x", "bad", 5)])
        assert spool.take_back_rejected(also_new=False) == 0
        assert spool.take_back_rejected(also_new=True) == 3
        found = spool.oldest(10)
        assert found[:4] == metrics
        assert [metric._replace(sequence=0, spool="") for metric in found[4:]] == METRICS[:1]
        assert spool.waiting() == 5
        assert spool.take_back_rejected(also_new=True) == 0
        spool.reject([metric_entry(found[0], "bad"), metric_entry(found[4], "bad")])
        assert spool.take_back_rejected(also_new=True) == 0  # they are there already
        assert spool.oldest(10) == found
        spool.add([("b", 1)])
        assert spool.waiting() == 6


def test_a_number_that_the_spool_has_not_reached_is_not_its_own(tmp_path):
    with Spool(str(tmp_path / "spool"), 1 << 30) as spool:
        spool.add([("a", 1)])
        (metric,) = spool.oldest(1)
        prefix = metric.id[:-1]
        ids = [
            prefix + "2",
            prefix + "0",
            prefix + "-1",
            prefix + "x",
            prefix,
            "x",
            "-1",
            prefix + "²",
        ]
        for each in ids:
            spool.reject([metric_entry(METRICS[0]._replace(own_id=each), "bad")])
        assert spool.take_back_rejected(also_new=True) == len(ids)
        assert [each.id for each in spool.oldest(10)] == [metric.id, *ids]


def test_a_file_that_cannot_be_taken_back_is_an_error(tmp_path):
    with Spool(str(tmp_path / "spool"), 1 << 30) as spool:
        os.mkdir(spool.rejects.path)
        with pytest.raises(SpoolFull, match="cannot take back '.*': Is a directory"):
            spool.take_back_rejected(also_new=True)


def test_a_start_ends_an_unfinished_way_back_before_it_rejects_anything(tmp_path):
    path = str(tmp_path / "spool")
    with Spool(path, 1 << 30) as spool, Pipe(str(tmp_path / "pipe"), 0o622) as pipe:
        spool.reject([line_entry(b"x", "bad", 5)])
        spool.rejects.set_aside()
        descriptor = os.open(pipe.path, os.O_WRONLY)
        os.write(descriptor, b"y\n")
        os.close(descriptor)
        spool.receive(pipe)
    settings = Mock(retry_refused=False, labels={}, target="stdout")
    with Spool(path, 1 << 30) as spool:
        app._prepare(settings, spool, path, Clock())
        assert [entry["line"] for entry in entries_in(spool.rejects.path)] == ["x", "y"]


@pytest.mark.slow
@pytest.mark.parametrize("also_new", [True, False])
def test_a_death_on_the_way_back_neither_loses_nor_doubles_an_entry(tmp_path, also_new):
    def prepare(folder):
        with Spool(folder + "/spool", 1 << 30) as spool:
            spool.add([("own", number) for number in range(3)])
            own = spool.oldest(3)
            spool.reject([metric_entry(metric, "bad") for metric in [*own, *METRICS]])
            spool.remove(own)
            spool.reject([line_entry(b"x", "bad", 5)])

    def work(folder):
        with Spool(folder + "/spool", 1 << 30) as spool:
            spool.take_back_rejected(also_new=True)

    for folder in deaths(prepare, work, tmp_path, 13):
        with Spool(folder + "/spool", 1 << 30) as spool:
            spool.take_back_rejected(also_new)
            kept = entries_in(spool.rejects.path)
            assert [entry["line"] for entry in kept if "line" in entry] == ["x"]
            stored = [metric.value for metric in spool.oldest(10)]
            rejected = [entry["value"] for entry in kept if "value" in entry]
            assert sorted(stored + rejected) == [0, 0.5, 1, 1, 2, 10**400]
            assert not (also_new and rejected)
