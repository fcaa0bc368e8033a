"""A running bai-daemon, with the backend stdout: its pipe, its spool and its end."""

import fcntl
import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
import time

import pytest

from tests.daemon.harness import PATH, PIPES, open_descriptors, run_daemon
from tests.helpers import BAI_EMIT, WAIT, bounded, finish, run, start, wait_until

STDOUT = ["stdout", "--flush-interval", "0.01"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_metrics_are_delivered_until_a_signal_to_stop(start_daemon, number):
    daemon = start_daemon(*STDOUT, "--label", "run=42", "--label", "host=a=b")
    daemon.emit("alexnet.latency=0.42", "größe=16")
    daemon.write(b'{"from the shell": 1}\n')
    daemon.emit("last=1")
    result = daemon.stop(number)
    assert result.code == 0
    assert daemon.pairs() == [
        ("alexnet.latency", 0.42),
        ("größe", 16),
        ("from the shell", 1),
        ("last", 1),
    ]
    for metric in daemon.metrics():
        assert list(metric) == ["time", "name", "value", "labels"]
        assert metric["labels"] == {"run": "42", "host": "a=b"}
        assert re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$", metric["time"])
    times = [metric["time"] for metric in daemon.metrics()]
    assert times == sorted(set(times))
    assert "received 4, delivered 4, rejected 0, waiting 0" in result.err.splitlines()[-1]
    assert not os.path.exists(daemon.path)


def test_the_start_is_logged_with_the_pipe_the_spool_and_the_server(start_daemon):
    daemon = start_daemon(*STDOUT)
    (line,) = daemon.stop().err.splitlines()[:1]
    message = f"bai-daemon INFO: reading {daemon.path}, spool {daemon.spool} (0 waiting), "
    assert line.endswith(message + "delivering to stdout")


# Emits until the pipe is gone, and prints how many times it could.
EMIT_UNTIL_THE_END = """
import os, sys
os.environ.update(BENCHMARK_AI="fifo", BENCHMARK_AI_FIFO_FILEPATH=sys.argv[1],
                  BENCHMARK_AI_FIFO_MAX_WAIT_TIME="0")
from benchmarkai import FifoError, emit
number = 0
while True:
    try:
        emit({sys.argv[2]: number})
    except FifoError:
        break
    number += 1
print(number)
"""


@pytest.mark.parametrize("attempt", range(3))
def test_nothing_is_lost_if_the_daemon_stops_while_emitters_write(start_daemon, tmp_path, attempt):
    with open(tmp_path / "delivered", "wb") as stdout:
        daemon = start_daemon(*STDOUT, stdout=stdout)
    names = ["a", "b", "c"]
    command = [sys.executable, "-c", EMIT_UNTIL_THE_END, daemon.path]
    emitters = [start([*command, name], stdout=subprocess.PIPE) for name in names]
    wait_until(lambda: (tmp_path / "delivered").stat().st_size > 1 << 18)
    assert daemon.stop().code == 0
    counts = {name: int(finish(emitter).out) for name, emitter in zip(names, emitters)}
    values = {name: [] for name in names}
    for line in (tmp_path / "delivered").read_text().splitlines():
        metric = json.loads(line)
        values[metric["name"]].append(metric["value"])
    assert {name: len(values[name]) for name in names} == counts
    assert all(values[name] == list(range(counts[name])) for name in names)


def test_a_metric_is_delivered_while_the_daemon_runs(start_daemon):
    daemon = start_daemon(*STDOUT)
    daemon.emit("a=1")
    wait_until(lambda: daemon.pairs() == [("a", 1)])
    daemon.emit("b=2")
    wait_until(lambda: daemon.pairs() == [("a", 1), ("b", 2)])
    assert daemon.stop().code == 0


def test_bad_lines_are_kept_in_a_file_and_the_others_are_delivered(start_daemon):
    daemon = start_daemon(*STDOUT)
    daemon.write(b'{"a": 1}\nhello\n{"b": NaN}\n{"c": 3}\n{"no newline": 4}')
    wait_until(lambda: os.path.exists(daemon.rejected))
    result = daemon.stop()
    assert daemon.pairs() == [("a", 1), ("c", 3), ("no newline", 4)]
    assert result.code == 0
    assert [entry["line"] for entry in daemon.rejected_entries()] == ["hello", '{"b": NaN}']
    assert "rejected 2 lines, the first is 'hello': " in result.err
    assert f": see {daemon.rejected}\n" in result.err
    assert "received 3, delivered 3, rejected 2, waiting 0" in result.err


def test_rejected_lines_are_logged_at_most_once_a_second(start_daemon):
    started = time.monotonic()
    daemon = start_daemon(*STDOUT)
    for number in range(200):
        daemon.write(b"hello %d\n" % number)
    result = daemon.stop()
    assert result.err.count("rejected 1 line,") <= 2
    counts = [int(count) for count in re.findall(r"rejected (\d+) lines?, the first", result.err)]
    assert sum(counts) == 200
    # One more at the start, and one at the end.
    assert len(counts) <= 2 + time.monotonic() - started


def test_the_pipe_has_the_mode_that_is_given_and_the_spool_is_private(start_daemon):
    daemon = start_daemon(*STDOUT, "--fifo-mode", "0602")
    assert stat.S_IMODE(os.stat(daemon.path).st_mode) == 0o602
    assert stat.S_IMODE(os.stat(daemon.spool).st_mode) == 0o600
    assert daemon.stop().code == 0


def test_a_second_daemon_cannot_read_the_same_pipe(start_daemon):
    first = start_daemon(*STDOUT)
    first.emit("a=1")
    second = start_daemon(*STDOUT, "--spool", first.path + ".other").wait()
    assert (second.code, second.out) == (1, "")
    assert f"another daemon reads the pipe {first.path!r}" in second.err
    first.emit("b=2")
    assert first.stop().code == 0
    assert first.pairs() == [("a", 1), ("b", 2)]


def test_a_second_daemon_cannot_use_the_same_spool(start_daemon, tmp_path):
    first = start_daemon(*STDOUT)
    fifo = str(tmp_path / "other")
    result = run_daemon("stdout", "--fifo", fifo, "--spool", first.spool)
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    message = f"another daemon uses the spool {first.spool!r}: choose another one (--spool)"
    assert line.endswith("bai-daemon ERROR: " + message)
    assert not os.path.exists(fifo)
    first.emit("a=1")
    assert first.stop().code == 0
    assert first.pairs() == [("a", 1)]


def test_a_pipe_that_existed_before_stays(start_daemon, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    daemon = start_daemon(*STDOUT)
    daemon.emit("a=1")
    assert daemon.stop().code == 0
    assert daemon.pairs() == [("a", 1)]
    assert os.path.exists(daemon.path)


def test_a_removed_pipe_is_created_again(start_daemon):
    daemon = start_daemon(*STDOUT)
    daemon.emit("a=1")
    before = open_descriptors(daemon.pid)
    os.unlink(daemon.path)
    wait_until(lambda: os.path.exists(daemon.path))
    daemon.emit("b=2")
    wait_until(lambda: daemon.pairs() == [("a", 1), ("b", 2)])
    assert len(open_descriptors(daemon.pid)) == len(before)
    result = daemon.stop()
    assert daemon.pairs() == [("a", 1), ("b", 2)]
    assert f"the pipe {daemon.path!r} was removed: created it again" in result.err
    assert not os.path.exists(daemon.path)


def wait_for_an_attempt(path, trigger):
    """Call trigger(), and wait until another process has opened the pipe and closed it again."""
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        trigger()
        poll = select.poll()
        poll.register(reader, 0)  # POLLHUP, once the last writer has closed it
        assert poll.poll(WAIT * 1000), "nobody has opened and closed the pipe"
    finally:
        os.close(reader)


def test_failed_attempts_to_open_the_pipe_again_leave_no_descriptor(start_daemon, tmp_path):
    daemon = start_daemon(*STDOUT)
    old_pipe = os.open(daemon.path, os.O_WRONLY)
    daemon.emit("a=1")
    wait_until(lambda: daemon.pairs() == [("a", 1)])
    before = open_descriptors(daemon.pid).keys()
    # With a lock, it looks like the pipe of another daemon.
    other = str(tmp_path / "other")
    os.mkfifo(other)
    lock = os.open(other, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(other, daemon.path)
    for _ in range(5):
        # Once it has read something, the daemon checks its pipe.
        wait_for_an_attempt(daemon.path, lambda: os.write(old_pipe, b"\n"))
    assert open_descriptors(daemon.pid).keys() == before
    message = "the pipe was removed, and cannot be created again: another daemon reads the pipe"
    assert daemon.logged().count(message) == 1
    os.write(old_pipe, b'{"b": 2}\n')
    os.close(old_pipe)
    os.unlink(daemon.path)
    wait_until(lambda: os.path.exists(daemon.path))
    daemon.emit("c=3")
    assert daemon.stop().code == 0
    assert daemon.pairs() == [("a", 1), ("b", 2), ("c", 3)]
    os.close(lock)


def test_emitters_block_while_the_spool_is_full_and_nothing_is_lost(start_daemon, tmp_path):
    # The backend accepts nothing while nobody reads its stdout, a pipe of 64 KiB.
    daemon = start_daemon(
        "stdout", "--spool-limit", "300K", "--batch-size", "100", stdout=subprocess.PIPE
    )
    count, name = 30000, "n" * 100
    (tmp_path / "stream").write_text("".join(f"{name}={number}\n" for number in range(count)))
    with open(tmp_path / "stream") as stdin:
        emitter = start([BAI_EMIT, "--fifo", daemon.path], stdin=stdin, **PIPES)
    daemon.wait_for_log(
        f"the spool {daemon.spool!r} has reached its limit: metrics stay in the pipe, and "
        "emitters block until it has room"
    )
    assert os.path.getsize(daemon.spool) < 2000000
    stdout = daemon.process.stdout
    lines = bounded(lambda: [stdout.readline() for _ in range(count)])
    assert [json.loads(line)["value"] for line in lines] == list(range(count))
    assert finish(emitter).code == 0
    assert daemon.stop().code == 0
    assert "accepting metrics again" in daemon.logged()


def test_undelivered_metrics_are_sent_by_the_command_in_the_log(start_daemon):
    with open("/dev/full", "wb") as full:
        daemon = start_daemon(*STDOUT, stdout=full)
    daemon.emit("a=1", "b=2")
    result = daemon.wait()
    assert result.code == 1
    assert "delivery stopped: cannot write to stdout" in result.err
    assert "received 2, delivered 0, rejected 0, waiting 2" in result.err
    pattern = rf"2 metrics kept in {re.escape(daemon.spool)}: send with: (.*)"
    command = re.search(pattern, result.err).group(1)
    again = run(["sh", "-c", command], env={"PATH": PATH})
    assert again.code == 0, again.err
    assert [json.loads(line)["name"] for line in again.out.splitlines()] == ["a", "b"]


def test_a_second_signal_to_stop_ends_the_last_deliveries(start_daemon):
    # A full stdout, which nobody reads, accepts nothing.
    daemon = start_daemon("stdout", "--shutdown-timeout", "1000", stdout=subprocess.PIPE)
    daemon.emit(stdin=b"name=1\n" * 10000)
    daemon.process.terminate()
    daemon.wait_for_log("left to deliver within 1000 s (SIGTERM stops at once)")
    result = daemon.stop()
    assert result.code == 1
    assert re.search(r"waiting [1-9]", result.err.splitlines()[-1])


def test_a_late_signal_to_stop_does_not_change_the_outcome(start_daemon):
    code = (
        "import os, signal\n"
        "from benchmarkai.daemon import cli\n"
        "report = cli._report\n"
        "def report_late(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    report(*arguments)\n"
        "cli._report = report_late\n"
        "cli.main()"
    )
    daemon = start_daemon(*STDOUT, program=[sys.executable, "-c", code])
    daemon.emit("a=1")
    result = daemon.stop()
    assert result.code == 0
    assert "received 1, delivered 1, rejected 0, waiting 0" in result.err.splitlines()[-1]


def test_a_signal_at_exit_does_not_change_the_exit_code(start_daemon):
    code = (
        "import atexit, os, signal\n"
        "from benchmarkai.daemon import cli\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
        "cli.main()"
    )
    daemon = start_daemon(*STDOUT, program=[sys.executable, "-c", code])
    assert daemon.stop().code == 0
