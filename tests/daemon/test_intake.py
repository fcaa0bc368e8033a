"""From the pipe into the spool."""

import json
import os

import pytest

from benchmarkai.daemon.intake import Flow, Intake
from benchmarkai.daemon.pipe import Pipe
from benchmarkai.daemon.spool import Spool, SpoolFull
from benchmarkai.jsonlines import MAX_RECORD_SIZE


@pytest.fixture
def pipe(tmp_path):
    with Pipe(str(tmp_path / "pipe"), 0o622) as pipe:
        yield pipe


@pytest.fixture
def spool(tmp_path):
    with Spool(str(tmp_path / "spool"), {}, 1 << 30) as spool:
        yield spool


def write(pipe, data):
    descriptor = os.open(pipe.path, os.O_WRONLY | os.O_NONBLOCK)
    assert os.write(descriptor, data) == len(data)
    os.close(descriptor)


def values_in(spool):
    return [metric.value for metric in spool.oldest(1 << 20)]


def rejected_lines(spool):
    if not os.path.exists(spool.rejected_path):
        return []
    with open(spool.rejected_path) as file:
        return [json.loads(line)["line"] for line in file]


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
    assert (values_in(spool), spool.partial_line) == ([1], b'{"b"')
    write(pipe, b": 2}\n")
    intake.take(pipe)
    assert (values_in(spool), spool.partial_line) == ([1, 2], b"")
    assert intake.end()


@pytest.mark.parametrize("data, received, rejected", [(b'{"a": 1}', 1, 0), (b'{"a": ', 0, 1)])
def test_the_partial_line_is_decoded_at_the_end(pipe, spool, data, received, rejected):
    intake = Intake(spool)
    write(pipe, data)
    intake.take(pipe)
    assert (intake.received, intake.rejected) == (0, 0)
    assert intake.end()
    assert (intake.received, intake.rejected) == (received, rejected)
    assert spool.partial_line == b""


def test_a_line_without_an_end_is_rejected(pipe, spool):
    intake = Intake(spool)
    size = 0
    while intake.rejected == 0:
        assert size <= MAX_RECORD_SIZE
        write(pipe, b"x" * (1 << 16))
        size += 1 << 16
        intake.take(pipe)
        assert len(spool.partial_line) <= MAX_RECORD_SIZE
    assert rejected_lines(spool) == ["x" * size]
    write(pipe, b'\n{"a": 1}\n')
    intake.take(pipe)
    assert values_in(spool) == [1]


def test_data_that_cannot_be_stored_stays_in_the_pipe(pipe, spool, monkeypatch, messages):
    def fail(*arguments):
        raise SpoolFull("the disk is full")

    intake = Intake(spool)
    write(pipe, b'hello\n{"a": 1}\n')
    with monkeypatch.context() as patches:
        patches.setattr(spool, "add", fail)
        for _ in range(3):
            assert intake.take(pipe) is Flow.BLOCKED
    assert (intake.received, intake.rejected, values_in(spool)) == (0, 0, [])
    assert intake.take(pipe) is Flow.TRICKLE
    assert (intake.received, intake.rejected, values_in(spool)) == (1, 1, [1])
    assert rejected_lines(spool) == ["hello"]  # once, in spite of four attempts
    first, second, last = messages()
    assert first == (
        "the disk is full: metrics stay in the pipe, and emitters block until it has room"
    )
    assert second.startswith("rejected 1 line, the first is 'hello': ")
    assert last == "accepting metrics again"


def test_nothing_is_taken_while_the_spool_is_full(pipe, spool, monkeypatch, messages):
    intake = Intake(spool)
    monkeypatch.setattr(spool, "fullness", lambda: "the spool has reached its limit")
    write(pipe, b'{"a": 1}\n')
    for _ in range(3):
        assert intake.take(pipe) is Flow.BLOCKED
    assert pipe.peek() == b'{"a": 1}\n'
    assert messages() == [
        "the spool has reached its limit: metrics stay in the pipe, and emitters block until it "
        "has room"
    ]
    assert intake.take(pipe, ignore_limit=True) is Flow.TRICKLE
    assert values_in(spool) == [1]


def test_rejected_lines_are_logged_once_a_second_or_when_asked(pipe, spool, monkeypatch, messages):
    now = [100.0]
    monkeypatch.setattr("benchmarkai.daemon.intake.time.monotonic", lambda: now[0])
    intake = Intake(spool)
    for number in range(3):
        write(pipe, b"hello %d\n" % number)
        intake.take(pipe)
    intake.log_rejected()
    (message,) = messages()
    assert message.startswith("rejected 1 line, the first is 'hello 0': ")
    assert message.endswith(f": see {spool.rejected_path}")
    now[0] += 1.5
    intake.log_rejected()
    assert len(messages()) == 2
    assert messages()[1].startswith("rejected 2 lines, the first is 'hello 1': ")
    write(pipe, b"hello 3\n")
    intake.take(pipe)
    assert len(messages()) == 2
    intake.log_rejected(now=True)
    assert len(messages()) == 3
    assert messages()[2].startswith("rejected 1 line, the first is 'hello 3': ")
    now[0] += 1.5
    intake.log_rejected(now=True)
    assert len(messages()) == 3
    assert intake.rejected == 4


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


def test_data_of_a_daemon_that_was_killed_is_not_joined_to_its_own_end(pipe, tmp_path):
    path = str(tmp_path / "other")
    write(pipe, b'{"a": 1}\n{"b')
    with Spool(path, {}, 1 << 30) as spool:
        consume, pipe.consume = pipe.consume, lambda data: None  # killed before it
        Intake(spool).take(pipe)
        pipe.consume = consume
        assert spool.partial_line == b'{"b'
    write(pipe, b'": 2}\n')
    with Spool(path, {}, 1 << 30) as spool:
        Intake(spool).take(pipe)
        # Delivered twice rather than not at all.
        assert values_in(spool) == [1, 1, 2]
        assert rejected_lines(spool) == []
