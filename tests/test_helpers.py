"""The harness itself: every wait ends in time, and processes end with their groups."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import (
    FifoReader,
    bounded,
    finish,
    kill,
    kill_leftovers,
    run,
    start,
    wait_until,
)


def test_finish_fails_in_time_if_a_grandchild_in_its_own_session_holds_stderr(tmpdir):
    code = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    with open(sys.argv[1], 'w') as file: file.write('%d ' % os.getpid())\n"
        "    time.sleep(40)\n"
    )
    pid = tmpdir.join("pid")
    process = start([sys.executable, "-c", code, str(pid)], stderr=subprocess.PIPE)
    wait_until(lambda: pid.check() and pid.read().endswith(" "))
    started = time.time()
    try:
        with pytest.raises(AssertionError) as caught:
            finish(process, limit=0.3)
    finally:
        os.kill(int(pid.read()), signal.SIGKILL)
    assert time.time() - started < 20
    assert "still running after 0.3 s" in str(caught.value)


def finish_too_late(process):
    with pytest.raises(AssertionError):
        finish(process, limit=0.3)


def assert_nobody_writes_to(reader):
    # read() returns nothing as soon as nobody has the other end of the pipe open.
    assert bounded(lambda: os.read(reader, 10), limit=20) == b""


@pytest.mark.parametrize("end", [finish_too_late, kill, lambda process: kill_leftovers()])
def test_the_whole_process_group_is_killed(end):
    reader, writer = os.pipe()
    process = start(["sh", "-c", "echo; sleep 40 & sleep 40"], stdout=writer)
    os.close(writer)
    assert bounded(lambda: os.read(reader, 10)) == b"\n"
    end(process)
    assert_nobody_writes_to(reader)
    os.close(reader)


def test_finish_kills_the_group_of_a_process_that_has_ended():
    reader, writer = os.pipe()
    process = start(["sh", "-c", "sleep 40 &"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    finish_too_late(process)
    assert_nobody_writes_to(reader)
    os.close(reader)


def test_a_process_in_the_group_of_the_tests_is_killed_alone():
    process = start(["sleep", "40"], own_group=False)
    assert os.getpgid(process.pid) == os.getpgrp()
    assert kill(process).code == -signal.SIGKILL


def test_a_result_has_the_exit_code_stdout_and_stderr():
    assert run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in") == (3, "in", "err\n")
    assert run(["true"], stdout=None, stderr=None) == (0, None, None)


def test_finish_does_not_block_on_more_data_than_the_pipes_hold():
    data = b"line\n" * 200000
    assert run(["cat"], stdin=data).out == data.decode()
    assert run(["sh", "-c", "echo one; exit 1"], stdin=data) == (1, "one\n", "")


def test_finish_returns_what_readline_left():
    process = start(["sh", "-c", "echo one; echo two"], stdout=subprocess.PIPE)
    assert bounded(process.stdout.readline) == b"one\n"
    assert finish(process).out == "two\n"


def test_bounded_returns_raises_and_fails_in_time():
    assert bounded(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0)
    with pytest.raises(AssertionError):
        bounded(lambda: time.sleep(5), limit=0.05)


def test_waiting_for_a_condition_ends_in_time():
    with pytest.raises(AssertionError):
        wait_until(lambda: False, limit=0.05)


def test_reading_from_an_endless_writer_ends_in_time(tmpdir, monkeypatch):
    fifo = FifoReader(str(tmpdir.join("fifo")))
    monkeypatch.setattr(fifo, "read_block", lambda: "more")
    with pytest.raises(AssertionError):
        fifo.read(limit=0.05)
