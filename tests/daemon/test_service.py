"""A running bai-daemon, with the backend stdout: its pipe, its spool and its end."""

import contextlib
import errno
import fcntl
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import termios
import time

import pytest

from benchmarkai.daemon import database
from benchmarkai.daemon.backends.base import Unavailable
from benchmarkai.daemon.delivery import Delivery
from benchmarkai.daemon.intake import Intake
from benchmarkai.daemon.pipe import Pipe
from benchmarkai.daemon.service import Service
from benchmarkai.daemon.spool import Spool, SpoolFull
from tests.daemon.fakes import FakeBackend, FakeSignals, FakeThread, VirtualClock, fail
from tests.daemon.harness import PATH, PIPES, open_descriptors, rejected_entries, run_daemon
from tests.helpers import BAI_EMIT, bounded, finish, run, start, wait_until

STDOUT = ["stdout", "--flush-interval", "0.01"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_slow_server_gets_all_metrics_of_a_command(tmp_path):
    code = (
        "import time\n"
        "from benchmarkai.daemon import cli\n"
        "from benchmarkai.daemon.backends import stdout\n"
        "send = stdout.Backend.send\n"
        "stdout.Backend.send = lambda *arguments: (time.sleep(0.2), send(*arguments))[1]\n"
        "cli.main()"
    )
    command = [sys.executable, "-c", code, "stdout", "--batch-size", "100"]
    (tmp_path / "stream").write_text("".join(f"a={number}\n" for number in range(1500)))
    script = f"bai-emit < {tmp_path / 'stream'}"
    command += ["--shutdown-timeout", "1", "--", "sh", "-c", script]
    result = run(command, env={"PATH": PATH})
    assert result.code == 0, result.err
    assert [json.loads(line)["value"] for line in result.out.splitlines()] == list(range(1500))


def test_rejected_lines_are_logged_at_most_once_a_second(start_daemon):
    started = time.monotonic()
    daemon = start_daemon(*STDOUT)
    for number in range(200):
        daemon.write(b"hello %d\n" % number)
    result = daemon.stop()
    assert result.err.count("rejected 1 line: ") <= 2
    counts = [int(count) for count in re.findall(r"rejected (\d+) lines?[:,] ", result.err)]
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# Emits again and again until there is a file, and prints how many times it has.
EMIT_STEADILY = """
import os, sys, time
from benchmarkai import emit
number = 0
while not os.path.exists(sys.argv[1]):
    emit({"a": number})
    number += 1
    time.sleep(0.001)
print(number)
"""


@pytest.mark.slow
def test_a_removed_pipe_is_created_again_although_somebody_writes_all_the_time(
    start_daemon, tmp_path
):
    daemon = start_daemon(*STDOUT)
    env = {"BENCHMARK_AI": "fifo", "BENCHMARK_AI_FIFO_FILEPATH": daemon.path}
    command = [sys.executable, "-c", EMIT_STEADILY, str(tmp_path / "stop")]
    emitter = start(command, env, **PIPES)
    wait_until(daemon.metrics)
    os.unlink(daemon.path)
    wait_until(lambda: os.path.exists(daemon.path))
    assert emitter.poll() is None
    (tmp_path / "stop").touch()
    result = finish(emitter)
    assert (result.code, result.err) == (0, "")
    assert daemon.stop().code == 0
    assert [value for _, value in daemon.pairs()] == list(range(int(result.out)))


@pytest.mark.slow
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
    pattern = rf"2 metrics are kept in {re.escape(daemon.spool)}: send with: (.*)"
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
    daemon.process.terminate()
    daemon.wait_for_log("stopping now after SIGTERM")
    result = daemon.wait()  # which reads stdout
    assert result.code == 1
    assert re.search(r"waiting [1-9]", result.err.splitlines()[-1])


def test_a_daemon_whose_terminal_is_closed_delivers_everything(start_daemon):
    terminal, own_end = pty.openpty()
    daemon = start_daemon(
        *STDOUT, stdin=own_end, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    )
    os.close(own_end)
    daemon.emit("a=1", "b=2")
    os.close(terminal)
    result = daemon.wait()
    assert result.code == 0
    assert daemon.pairs() == [("a", 1), ("b", 2)]
    assert "stopping after SIGHUP" in result.err
    assert not os.path.exists(daemon.path)


def wake_ups(pid):
    """Return how often the threads of the process have waited so far."""
    count = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as status:
            count += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read(), re.M)[1])
    return count


@pytest.mark.slow
def test_an_idle_daemon_wakes_up_at_most_twice_a_second(start_daemon):
    daemon = start_daemon(*STDOUT)
    daemon.emit("a=1")
    wait_until(daemon.metrics)
    seconds = 6
    before = wake_ups(daemon.pid)
    time.sleep(seconds)  # the time in question, not a guess
    assert wake_ups(daemon.pid) - before <= 2 * seconds
    assert daemon.stop().code == 0


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


# In this process, with a clock of its own


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def signals():
    return FakeSignals()


@pytest.fixture
def make_service(tmp_path, clock, signals):
    """A function that returns a service with everything that it needs, and its spool."""
    opened = []

    def call(backend, shutdown_timeout=8.0, status_interval=0.0, **options):
        spool = Spool(str(tmp_path / "spool"), 1 << 30, clock=clock)
        spool.begin({}, "a server")
        pipe = Pipe(str(tmp_path / "pipe"), 0o622)
        opened.append(spool)
        opened.append(pipe)
        delivery = Delivery(spool, backend, 100, 1.0, clock)
        thread = FakeThread(delivery, clock)
        service = Service(
            signals,
            pipe,
            spool,
            Intake(spool, clock),
            thread,
            clock,
            shutdown_timeout,
            status_interval,
            **options,
        )
        return service, spool

    yield call
    for resource in opened:
        resource.close()


def when(clock, moments):
    """Call functions at moments of the clock: {seconds from now: function}."""
    left = sorted((clock.now + seconds, function) for seconds, function in moments.items())
    on_wait = clock.on_wait

    def look():
        while left and clock.now >= left[0][0]:
            left.pop(0)[1]()
        on_wait()

    clock.on_wait = look


def write(path, *names):
    with open(path, "wb") as pipe:
        pipe.write(b"".join(b'{"%s": 1}\n' % name.encode() for name in names))


def stop_with(signals, number=signal.SIGTERM):
    return lambda: signals.pending.append(number)


def status_lines(messages):
    return [message for message in messages() if message.startswith("received ")]


def test_the_status_is_logged_in_intervals_if_there_is_news(
    make_service, clock, signals, messages, tmp_path
):
    service, _ = make_service(FakeBackend(), status_interval=60)
    fifo = tmp_path / "pipe"
    when(
        clock,
        {
            5: lambda: write(fifo, "a"),
            70: lambda: write(fifo, "b"),
            80: lambda: write(fifo, "c"),
            1000: lambda: write(fifo, "d"),
            2000: stop_with(signals),
        },
    )
    assert service.run([]) is None
    lines = [re.match(r"received (\d+), delivered (\d+)", line) for line in status_lines(messages)]
    # The fourth comes as soon as there is news, because the last line is long ago.
    assert [line.groups() for line in lines] == [("1", "1"), ("3", "3"), ("4", "3"), ("4", "4")]


def test_an_error_is_news_too(make_service, clock, signals, messages, tmp_path):
    backend = FakeBackend(rule=fail(Unavailable("HTTP 503: not now")))
    service, _ = make_service(backend, status_interval=60)
    when(clock, {5: lambda: write(tmp_path / "pipe", "a"), 1000: stop_with(signals)})
    service.run([])
    (line,) = status_lines(messages)
    assert re.match(
        r"received 1, delivered 0, rejected 0, waiting 1, the oldest for \d+ s, spool \d+ bytes, "
        r"disk \d+ bytes free, last error: HTTP 503: not now$",
        line,
    )


@pytest.mark.parametrize("interval", [0.0, 60.0])
def test_without_news_or_an_interval_there_is_no_status_line(
    make_service, clock, signals, messages, tmp_path, interval
):
    service, _ = make_service(FakeBackend(), status_interval=interval)
    if not interval:
        when(clock, {5: lambda: write(tmp_path / "pipe", "a")})
    when(clock, {1000: stop_with(signals)})
    service.run([])
    assert status_lines(messages) == []


def test_the_status_file_is_there_as_long_as_the_daemon_runs(
    make_service, clock, signals, tmp_path
):
    service, spool = make_service(FakeBackend())
    found = []
    path = tmp_path / "spool.status"
    when(
        clock,
        {
            1: lambda: write(tmp_path / "pipe", "a"),
            5: lambda: found.append(json.loads(path.read_text())),
            6: stop_with(signals),
        },
    )
    service.run([])
    assert [(status["received"], status["delivered"]) for status in found] == [(1, 1)]
    assert not path.exists()


def slow_backend(clock):
    """Return a backend that needs 0.2 seconds for each request."""

    def answer(metrics):
        clock.now += 0.2

    return FakeBackend(rule=answer)


def delivered_before_the_end(make_service, clock, signals, command, count=5000):
    """Let so many metrics wait for a slow server at the end. Return how many it has got."""
    backend = slow_backend(clock)
    service, spool = make_service(backend, shutdown_timeout=1.0)
    spool.add([("a", number) for number in range(count)])
    stop_with(signals)()
    service.run(command)
    values = sum(backend.accepted, [])
    assert values == list(range(len(values)))
    assert len(values) + spool.waiting() == count
    return len(values)


def test_after_a_command_the_time_out_counts_from_the_last_progress(
    make_service, clock, signals, messages
):
    assert delivered_before_the_end(make_service, clock, signals, ["true"]) == 5000
    assert not any("stopping now" in message for message in messages())


def test_without_a_command_the_time_out_is_that_of_all_deliveries(
    make_service, clock, signals, messages
):
    assert 200 <= delivered_before_the_end(make_service, clock, signals, []) <= 500
    assert messages()[-2:] == [
        "stopping: 5000 metrics left to deliver within 1 s (SIGTERM stops at once)",
        "stopping now: delivering took longer than 1 s: raise --shutdown-timeout to wait longer",
    ]


def test_after_a_command_a_server_without_progress_is_given_up(
    make_service, clock, signals, messages
):
    backend = FakeBackend(rule=fail(Unavailable("HTTP 503: not now")))
    service, spool = make_service(backend, shutdown_timeout=5.0)
    spool.add([("a", 1)])
    assert service.run(["sh", "-c", "exit 3"]) == 3
    assert spool.waiting() == 1
    assert len(backend.calls) > 5
    assert messages()[-1] == (
        "stopping now: nothing was delivered for 5 s: raise --shutdown-timeout to wait longer"
    )
    # The first failure is told, and not each one of the last retries.
    failures = [message for message in messages() if message.startswith("cannot deliver: ")]
    assert failures[0].startswith("cannot deliver: HTTP 503: not now; 1 metric waiting; ")


def test_after_a_command_a_server_that_stops_to_accept_is_given_up(
    make_service, clock, signals, messages
):
    down = fail(Unavailable("HTTP 503: not now"))
    backend = FakeBackend(lambda metrics: None, lambda metrics: None, rule=down)
    service, spool = make_service(backend, shutdown_timeout=5.0)
    spool.add([("a", number) for number in range(1000)])
    assert service.run(["true"]) == 0
    assert spool.waiting() == 800
    assert messages()[-1].startswith("stopping now: nothing was delivered for 5 s: ")


def test_what_a_server_rejects_is_progress_too(make_service, clock, signals, messages):
    def reject_all_but_one(metrics):
        clock.now += 0.2
        return [(metric, "it is bad") for metric in metrics if metric.value]

    service, spool = make_service(FakeBackend(rule=reject_all_but_one), shutdown_timeout=1.0)
    spool.add([("a", number) for number in range(3000)])
    service.run(["true"])
    assert spool.waiting() == 0
    assert len(rejected_entries(spool)) == 2999


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_stop_ends_the_last_deliveries_at_once(make_service, clock, signals, number):
    backend = FakeBackend(rule=fail(Unavailable("HTTP 503: not now")))
    service, spool = make_service(backend, shutdown_timeout=1000)
    spool.add([("a", 1)])
    stop_with(signals)()
    begin = clock.now
    when(clock, {10: stop_with(signals, number)})
    service.run([])
    assert 10 <= clock.now - begin < 12
    assert spool.waiting() == 1


def test_sigusr1_logs_the_status_of_the_last_deliveries_too(make_service, clock, signals, messages):
    service, spool = make_service(FakeBackend(fail(Unavailable("HTTP 503"))))
    spool.add([("a", 1)])
    signals.pending += [signal.SIGTERM]
    when(clock, {0: stop_with(signals, signal.SIGUSR1)})
    service.run([])
    assert len(status_lines(messages)) == 1
    assert spool.waiting() == 0


def test_long_last_deliveries_show_their_status(make_service, clock, signals, messages, tmp_path):
    service, spool = make_service(slow_backend(clock), shutdown_timeout=5.0, status_interval=2.0)
    spool.add([("a", number) for number in range(5000)])
    seen = set()

    def look():
        with contextlib.suppress(FileNotFoundError):
            seen.add(json.loads((tmp_path / "spool.status").read_text())["delivered"])
        service._thread.make_step()

    clock.on_wait = look
    service.run(["true"])
    assert len(seen) > 5
    assert len(status_lines(messages)) > 3


def test_the_status_is_logged_on_sigusr1_although_there_is_no_news(
    make_service, clock, signals, messages
):
    service, _ = make_service(FakeBackend())
    when(clock, {5: stop_with(signals, signal.SIGUSR1), 6: stop_with(signals)})
    service.run([])
    (line,) = status_lines(messages)
    assert line.startswith("received 0, delivered 0, rejected 0, waiting 0, spool ")


def test_sigusr1_logs_the_status_and_reaches_the_command(
    make_service, clock, signals, messages, tmp_path
):
    service, _ = make_service(FakeBackend())
    ready = tmp_path / "ready"

    def send_once_ready():
        if ready.exists():
            ready.unlink()
            signals.pending.append(signal.SIGUSR1)
        service._thread.make_step()

    clock.on_wait = send_once_ready
    script = "trap 'exit 7' USR1; touch \"$0\"; while :; do sleep 0.01; done"
    assert service.run(["sh", "-c", script, str(ready)]) == 7
    assert len(status_lines(messages)) == 1


def test_a_pipe_that_cannot_be_created_again_is_told_once_and_tried_again(
    make_service, clock, signals, messages, tmp_path
):
    backend = FakeBackend()
    service, _ = make_service(backend)
    path = tmp_path / "pipe"
    old = os.open(path, os.O_RDWR)
    counts = []

    def replace():
        path.unlink()
        path.write_text("private")

    when(
        clock,
        {
            2: replace,
            4: lambda: counts.append(len(open_descriptors())),
            10: lambda: os.write(old, b'{"old": 1}\n'),
            20: lambda: counts.append(len(open_descriptors())),
            21: path.unlink,
            24: lambda: write(path, "new"),
            30: stop_with(signals),
        },
    )
    service.run([])
    os.close(old)
    assert counts[0] == counts[1]
    assert len(backend.accepted) == 2
    assert [message for message in messages() if "pipe" in message] == [
        f"the pipe was removed, and cannot be created again: {str(path)!r} is not a named pipe, "
        "and was left as it is: move it away, or choose another path (--fifo)",
        f"the pipe {str(path)!r} was removed: created it again",
    ]


def test_what_cannot_be_stored_at_the_end_is_told(make_service, clock, signals, messages, tmp_path):
    service, spool = make_service(FakeBackend(), shutdown_timeout=5.0)
    fifo = str(tmp_path / "pipe")

    def fill_the_disk():
        write(fifo, "a")
        spool.receive = fail(SpoolFull("the disk is full"))

    when(clock, {2: fill_the_disk, 3: stop_with(signals)})
    service.run([])
    assert not service.stored
    assert f"some data in the pipe {fifo!r} could not be stored" in messages()


def test_the_end_waits_for_room_until_the_time_out(make_service, clock, signals, tmp_path):
    backend = FakeBackend()
    service, spool = make_service(backend, shutdown_timeout=5.0)
    receive = spool.receive

    def no_room():
        spool.receive = fail(SpoolFull("the disk is full"))
        write(tmp_path / "pipe", "a")

    def room():
        spool.receive = receive

    when(clock, {2: no_room, 3: stop_with(signals), 6: room})
    service.run([])
    assert service.stored
    assert backend.accepted == [[1]]


def test_an_idle_service_waits_for_data_and_disturbs_nobody(make_service, clock, signals):
    service, _ = make_service(FakeBackend())
    waits, notified = [], []

    def wait(seconds, *sources):
        waits.append((seconds, sources))
        VirtualClock.wait(clock, seconds)

    notify = service._thread.notify
    service._thread.notify = lambda **how: notified.append(clock.now) or notify(**how)
    clock.wait = wait
    pipe = service._pipe
    when(clock, {100: lambda: write(pipe.path, "a"), 200: stop_with(signals)})
    service.run([])
    idle = (1.0, (signals, pipe))
    short = (0.05, (signals,))  # after the data, so that more can come, and at the end
    assert set(waits) == {idle, short}
    assert 99 <= waits.index(short) <= 101
    assert len(waits) < 210
    assert len(notified) == 2  # after the data, and at the end


def test_before_the_last_deliveries_the_pipe_is_empty_and_closed(
    make_service, clock, signals, tmp_path
):
    seen = []
    fifo = tmp_path / "pipe"
    service, spool = make_service(
        FakeBackend(), before_finish=lambda: seen.append((fifo.exists(), spool.waiting()))
    )
    when(clock, {2: lambda: write(fifo, *("a" * 1000)), 2.01: stop_with(signals)})
    service.run([])
    assert seen == [(False, 1000)]
    assert spool.waiting() == 0


def test_a_spool_that_cannot_be_opened_again_for_a_while_does_not_end_the_daemon(
    make_service, clock, signals, monkeypatch, tmp_path
):
    backend = FakeBackend(rule=fail(Unavailable("HTTP 503: not now")))
    service, spool = make_service(backend, shutdown_timeout=2.0, status_interval=1.0)
    connect = database.connect
    is_broken = True

    def no_descriptors_at_first(path):
        if is_broken:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return connect(path)

    def repair():
        nonlocal is_broken
        is_broken = False
        backend.rule = lambda metrics: None

    monkeypatch.setattr(database, "connect", no_descriptors_at_first)
    spool_file = tmp_path / "spool"
    when(
        clock,
        {
            1: lambda: write(tmp_path / "pipe", "a"),
            5: spool_file.unlink,
            8: stop_with(signals, signal.SIGUSR1),
            20: repair,
            60: stop_with(signals),
        },
    )
    service.run([])
    assert backend.accepted == [[1]]
    assert (service.status().delivered, spool.waiting()) == (1, 0)
    assert spool_file.exists()
