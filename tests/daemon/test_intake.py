"""From the pipe into the spool."""

import contextlib
import json
import os
import shutil

import pytest

from benchmarkai.daemon import journal
from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.intake import Flow, Intake
from benchmarkai.daemon.pipe import Pipe
from benchmarkai.daemon.spool import Spool, SpoolFull
from benchmarkai.jsonlines import MAX_RECORD_SIZE
from tests.daemon.crash import deaths, die, run_in_child, small_disk
from tests.daemon.harness import write


class VirtualClock(Clock):
    def __init__(self):
        self.seconds = 0.0

    def time(self):
        return 42

    def monotonic(self):
        return self.seconds


@pytest.fixture
def spool(tmp_path):
    with Spool(str(tmp_path / "spool"), 1 << 30) as spool:
        yield spool


def values_in(spool):
    return [metric.value for metric in spool.oldest(1 << 20)]


def rejected_lines(spool):
    return [entry["line"] for entry in entries(spool)]


def entries(spool):
    if not os.path.exists(spool.rejects.path):
        return []
    with open(spool.rejects.path) as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize(
    "data, flow, received",
    [
        (b"", Flow.IDLE, 0),
        (b'{"a": 1}\n', Flow.TRICKLE, 1),
        (b"\n" * ((1 << 15) - 1), Flow.TRICKLE, 0),
        (b'{"a": 1}\n' * 4000, Flow.BUSY, 4000),
    ],
)
def test_the_flow_tells_how_much_there_was(pipe, spool, data, flow, received):
    intake = Intake(spool)
    write(pipe, data)
    assert intake.take(pipe) is flow
    assert (intake.received, intake.rejected, spool.waiting()) == (received, 0, received)
    assert intake.take(pipe) is Flow.IDLE


def test_a_partial_line_waits_for_its_newline(pipe, spool):
    intake = Intake(spool)
    write(pipe, b'{"a": 1}\n{"b"')
    intake.take(pipe)
    assert (values_in(spool), spool.pending()) == ([1], b'{"b"')
    write(pipe, b": 2}\n")
    intake.take(pipe)
    assert (values_in(spool), spool.pending()) == ([1, 2], b"")
    assert intake.end()


@pytest.mark.parametrize("data, received, rejected", [(b'{"a": 1}', 1, 0), (b'{"a": ', 0, 1)])
def test_the_partial_line_is_decoded_at_the_end(pipe, spool, data, received, rejected):
    intake = Intake(spool)
    write(pipe, data)
    intake.take(pipe)
    assert (intake.received, intake.rejected) == (0, 0)
    assert intake.end()
    assert (intake.received, intake.rejected) == (received, rejected)
    assert spool.pending() == b""


def test_a_line_without_an_end_is_rejected(pipe, spool):
    intake = Intake(spool)
    size = 0
    while size < MAX_RECORD_SIZE:
        write(pipe, b"x" * (1 << 16))
        size += 1 << 16
        intake.take(pipe)
        assert len(spool.pending()) == size
    assert intake.rejected == 0
    write(pipe, b"x")
    intake.take(pipe)
    assert intake.rejected == 1
    assert spool.pending() == b""
    assert rejected_lines(spool) == ["x" * (size + 1)]
    write(pipe, b'\n{"a": 1}\n')
    intake.take(pipe)
    assert values_in(spool) == [1]


def test_data_that_cannot_be_stored_stays_in_the_journal(pipe, spool, monkeypatch, messages):
    def fail(*arguments):
        raise SpoolFull("the disk is full")

    intake = Intake(spool)
    write(pipe, b'hello\n{"a": 1}\n')
    with monkeypatch.context() as patches:
        patches.setattr(spool, "add", fail)
        for _ in range(3):
            assert intake.take(pipe) is Flow.BLOCKED
        assert not intake.end()
        with pytest.raises(SpoolFull):
            intake.recover()
    assert (intake.received, intake.rejected, values_in(spool)) == (0, 0, [])
    assert intake.take(pipe) is Flow.TRICKLE
    assert (intake.received, intake.rejected, values_in(spool)) == (1, 1, [1])
    assert rejected_lines(spool) == ["hello"]  # once, in spite of all attempts
    first, second, last = messages()
    assert first == (
        "the disk is full: metrics stay in the pipe, and emitters block until it has room"
    )
    assert second.startswith("rejected 1 line: 'hello': ")
    assert last == "accepting metrics again"


def test_more_stays_in_the_pipe_while_data_cannot_be_stored(pipe, spool):
    intake = Intake(spool)
    write(pipe, b"hello\n")
    os.mkfifo(spool.rejects.path)
    for number in range(3):
        assert intake.take(pipe) is Flow.BLOCKED
        write(pipe, b'{"a": %d}\nbad %d\n' % (number, number))
    assert spool.pending() == b"hello\n"
    os.unlink(spool.rejects.path)
    assert intake.take(pipe) is Flow.TRICKLE
    assert values_in(spool) == [0, 1, 2]
    assert rejected_lines(spool) == ["hello", "bad 0", "bad 1", "bad 2"]


def test_nothing_is_taken_while_the_spool_is_full(pipe, spool, monkeypatch, messages):
    intake = Intake(spool)
    monkeypatch.setattr(spool, "fullness", lambda: "the spool has reached its limit")
    write(pipe, b'{"a": 1}\n')
    for _ in range(3):
        assert intake.take(pipe) is Flow.BLOCKED
    assert spool.pending() == b""
    assert messages() == [
        "the spool has reached its limit: metrics stay in the pipe, and emitters block until it "
        "has room"
    ]
    assert intake.take(pipe, ignore_limit=True) is Flow.TRICKLE
    assert values_in(spool) == [1]


def test_rejected_lines_are_logged_once_a_second(pipe, spool, messages):
    clock = VirtualClock()
    intake = Intake(spool, clock)
    for number in range(3):
        write(pipe, b"hello %d\n" % number)
        intake.take(pipe)
    intake.take(pipe)
    (message,) = messages()
    assert message.startswith("rejected 1 line: 'hello 0': ")
    assert message.endswith(f": see {spool.rejects.path}")
    clock.seconds += 1.5
    intake.take(pipe)
    assert len(messages()) == 2
    assert messages()[1].startswith("rejected 2 lines, the first is 'hello 1': ")
    assert [entry["time"] for entry in entries(spool)] == [clock.time()] * 3
    assert intake.rejected == 3


def test_a_removed_spool_is_created_again(pipe, spool, messages):
    intake = Intake(spool)
    write(pipe, b'{"a": 1}\n')
    intake.take(pipe)
    os.unlink(spool.path)
    write(pipe, b'{"a": 2}\n')
    intake.take(pipe)
    assert messages() == [f"the spool {spool.path!r} was removed: created it again"]
    assert os.path.exists(spool.path)
    assert values_in(spool) == [1, 2]


def test_a_spool_that_cannot_be_created_again_is_told_once_and_does_not_block(
    pipe, tmp_path, messages
):
    folder = tmp_path / "folder"
    folder.mkdir()
    clock = VirtualClock()
    with Spool(str(folder / "spool"), 1 << 30, clock=clock) as spool:
        intake = Intake(spool, clock)
        for number in range(2):
            shutil.rmtree(folder)
            folder.write_text("a file in its place")
            for _ in range(3):
                write(pipe, b'{"a": 1}\n')
                assert intake.take(pipe) is Flow.TRICKLE
                clock.seconds += 1.0
            assert len(messages()) == 2 * number + 1
            assert "until it can be created again, metrics that cannot be" in messages()[-1]
            folder.unlink()
            intake.take(pipe)
            assert messages()[-1] == f"the spool {spool.path!r} was removed: created it again"
        assert values_in(spool) == [1] * 6


def test_a_disk_that_fills_up_loses_nothing(pipe, tmp_path):
    with small_disk(str(tmp_path / "disk"), 3 << 20) as folder:
        with Spool(os.path.join(folder, "spool"), 1 << 30) as spool:
            intake = Intake(spool)
            ballast = os.path.join(folder, "ballast")
            with contextlib.suppress(OSError), open(ballast, "wb", 0) as file:
                while True:
                    file.write(b"x" * 4096)
            number, flow = 0, Flow.IDLE
            while flow is not Flow.BLOCKED:
                assert number < 10000
                write(pipe, b"".join(b'{"a": %d}\n' % (number + each) for each in range(100)))
                number += 100
                flow = intake.take(pipe, ignore_limit=True)
            os.unlink(ballast)
            while flow is not Flow.IDLE:
                flow = intake.take(pipe, ignore_limit=True)
            assert values_in(spool) == list(range(number))


def test_a_partial_line_is_not_written_again_for_each_byte_that_follows(pipe, spool):
    def written():
        with open("/proc/self/io") as file:
            return int(dict(line.split(": ") for line in file)["wchar"])

    intake = Intake(spool)
    write(pipe, b"x" * (MAX_RECORD_SIZE - 500))
    intake.take(pipe)
    size, before, files = 400, written(), sum(sizes(spool))
    for _ in range(size):
        write(pipe, b"y")  # wchar counts it too, and the splice
        intake.take(pipe)
    assert written() - before <= 4 * size
    assert sum(sizes(spool)) - files == size


def test_a_line_that_is_too_long_is_written_three_times_at_most(pipe, spool):
    # To the journal, to the file of what was rejected, and what follows it to the next journal.
    intake = Intake(spool)
    for _ in range(3):
        write(pipe, b"x" * MAX_RECORD_SIZE)
        intake.take(pipe)
        for _ in range(50):
            write(pipe, b"y")
            intake.take(pipe)
    assert sum(sizes(spool)) < 3 * (MAX_RECORD_SIZE + 50) * 2


def sizes(spool):
    folder = os.path.dirname(spool.path)
    return [os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)]


# The death of the process

STREAM = [b'{"a": 0}\n{"a": 1}\n{"a"', b": 2}\nhello\n", b'{"a": 3}\n{', b'"a": 4}\n{"a": 5']


@pytest.mark.slow
@pytest.mark.parametrize("max_old_size", [1 << 20, 10], ids=["one journal", "new journals"])
def test_a_death_at_any_line_neither_loses_nor_doubles_data(tmp_path, monkeypatch, max_old_size):
    # With 10, the journal is made anew at nearly every step.
    monkeypatch.setattr(journal, "_MAX_OLD_SIZE", max_old_size)

    def prepare(folder):
        with Spool(folder + "/spool", 1 << 30) as spool:
            spool.begin({"run": "42"}, "stdout")
        with open(folder + "/written", "w"):
            pass

    def take(folder):
        with Spool(folder + "/spool", 1 << 30) as spool:
            intake = Intake(spool)
            for data in STREAM:
                write(pipe, data)
                with open(folder + "/written", "a") as file:
                    file.write("1")
                intake.take(pipe)

    # The pipe outlives the process: this one has it open.
    os.mkfifo(tmp_path / "pipe")
    with Pipe(str(tmp_path / "pipe"), 0o622) as pipe:
        for folder in deaths(prepare, take, tmp_path, 19):
            with Spool(folder + "/spool", 1 << 30) as spool:
                intake = Intake(spool)
                intake.recover()
                intake.take(pipe)
                with open(folder + "/written") as file:
                    written = b"".join(STREAM[: len(file.read())])
                assert values_in(spool) == list(range(written.count(b"}\n")))
                assert spool.pending() == written[written.rfind(b"\n") + 1 :]
                hello = {"hello"} if b"hello" in written else set()
                assert set(rejected_lines(spool)) == hello
                assert {metric.labels["run"] for metric in spool.oldest(10)} <= {"42"}


def test_the_next_process_ends_a_partial_line(pipe, tmp_path):
    path = str(tmp_path / "other")

    def take():
        spool = Spool(path, 1 << 30)
        write(pipe, b'{"a": 1}\n{"a')
        Intake(spool).take(pipe)
        die()

    assert run_in_child(take)
    write(pipe, b'": 2}\n')
    with Spool(path, 1 << 30) as spool:
        Intake(spool).take(pipe)
        assert values_in(spool) == [1, 2]
        assert rejected_lines(spool) == []


def test_data_that_was_received_and_not_stored_is_recovered(pipe, tmp_path):
    path = str(tmp_path / "other")

    def take():
        spool = Spool(path, 1 << 30)
        spool.begin({"run": "42"}, "stdout")
        write(pipe, b'{"a": 1}\nhello\n')
        spool.receive(pipe)
        die()

    assert run_in_child(take)
    with Spool(path, 1 << 30) as spool:
        intake = Intake(spool)
        intake.recover()
        assert (intake.received, intake.rejected) == (1, 1)
        assert values_in(spool) == [1]
        assert rejected_lines(spool) == ["hello"]
        assert spool.oldest(1)[0].labels == {"run": "42"}
