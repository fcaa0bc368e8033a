"""Whatever happens in a run, every part of the daemon is closed afterwards."""

import fcntl
import json
import os
import re
import shutil
import sys
import tempfile

import pytest

from benchmarkai.daemon.spool import Spool
from tests.daemon.harness import FAILING, PATH, PIPES, Daemon, run_daemon
from tests.helpers import BAI_DAEMON, NOT_MEASURED, finish, run_python, start, wait_until

STDOUT = ["stdout", "--flush-interval", "0.01"]

# Runs app.run() in its own process, and prints what is left of it there.
SCRIPT = """
import json, os, signal, sys, threading
from benchmarkai.daemon import app, intake
from benchmarkai.daemon.backends.base import Backend, FatalError, Rejected, Unavailable

case = json.loads(sys.argv[1])

class TestBackend(Backend):
    def reason_to_reject(self, metric):
        if case["backend"] == "bug":
            raise ZeroDivisionError("a bug of the backend")
        if case["backend"] == "picky":
            return "it is bad"

    def send(self, metrics):
        if case["backend"] == "ok":
            return None
        raise {
            "fatal": FatalError("it cannot go on"),
            "rejects": Rejected("it is bad"),
            "unavailable": Unavailable("not now"),
            "unexpected": ValueError("what is this?"),
        }[case["backend"]]

def state():
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "handlers": [str(signal.getsignal(number)) for number in range(1, signal.NSIG)],
        "wakeup": wakeup,
        "threads": threading.active_count(),
    }

def fail(*arguments, **options):
    raise RuntimeError("a bug of the daemon")

if case["bug"]:
    intake.Intake.take = fail
signal.signal(signal.SIGTERM, lambda number, frame: None)
settings = app.Settings(
    fifo=case["fifo"],
    fifo_mode=0o622,
    labels={},
    no_name_labels=False,
    time_step=0,
    spool=case["spool"],
    spool_limit=1 << 30,
    refused_limit=1 << 30,
    retry_refused=False,
    batch_size=1000,
    flush_interval=0.01,
    shutdown_timeout=case["shutdown_timeout"],
    status_interval=60.0,
    command=case["command"],
    target="a test",
)
before = state()
result = {"failure": None, "code": None, "error": None}
try:
    outcome = app.run(settings, TestBackend())
    result.update(failure=outcome.failure, code=outcome.exit_code, waiting=outcome.waiting)
except Exception as error:
    result["error"] = type(error).__name__ + ": " + str(error)
assert state() == before, (before, state())
print(json.dumps(result))
"""

PUBLISH = ["sh", "-c", 'printf \'{"a": 1}\\n\' > "$BENCHMARK_AI_FIFO_FILEPATH"']


def run_app(tmp_path, **case):
    """Run it, and return what became of it, and what is left in its temporary folder."""
    defaults = {"backend": "ok", "fifo": None, "spool": None, "command": PUBLISH, "bug": False}
    case = {**defaults, "shutdown_timeout": 30, **case}
    folder = tmp_path / "tmp"
    folder.mkdir()
    result = run_python(SCRIPT, json.dumps(case), env={"TMPDIR": str(folder)})
    assert result.code == 0, result.err
    left = [file.name for file in folder.glob("bai-daemon-*/*")]
    assert left or os.listdir(folder) == []
    return json.loads(result.out), sorted(left)


def test_nothing_is_left_of_a_complete_run(tmp_path):
    result, left = run_app(tmp_path)
    assert (result["code"], result["waiting"], left) == (0, 0, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend, failure, waiting, left",
    [
        ("fatal", "it cannot go on", 1, ["pipe.spool"]),
        ("bug", "a bug of the backend", 1, ["pipe.spool"]),
        ("unavailable", None, 1, ["pipe.spool"]),
        ("unexpected", None, 1, ["pipe.spool"]),
        ("rejects", None, 1, ["pipe.spool"]),
        ("picky", None, 0, ["pipe.spool", "pipe.spool.refused"]),
    ],
)
def test_the_folder_is_kept_if_something_was_not_delivered(
    tmp_path, backend, failure, waiting, left
):
    timeout = 30 if backend == "picky" else 0.1
    result, found = run_app(tmp_path, backend=backend, shutdown_timeout=timeout)
    assert (result["code"], result["failure"], result["waiting"]) == (1, failure, waiting)
    assert found == left


@pytest.mark.parametrize("command, code", [("/none/such", 127), ("/", 126)])
def test_nothing_is_left_if_the_command_cannot_be_started(tmp_path, command, code):
    result, left = run_app(tmp_path, command=[command])
    assert (result["code"], left) == (code, [])


def test_nothing_is_left_if_the_spool_cannot_be_used(tmp_path):
    result, left = run_app(tmp_path, spool=str(tmp_path))
    assert result["error"].startswith(f"StartError: {str(tmp_path)!r} is not a regular file")
    assert left == []


def test_a_pipe_that_was_created_is_removed_if_the_spool_cannot_be_used(tmp_path):
    fifo = tmp_path / "pipe"
    result, left = run_app(tmp_path, fifo=str(fifo), spool=str(tmp_path))
    assert result["error"].startswith("StartError: ")
    assert not fifo.exists()


def test_nothing_is_left_if_the_pipe_cannot_be_used(tmp_path):
    fifo = tmp_path / "pipe"
    fifo.write_text("private")
    result, left = run_app(tmp_path, fifo=str(fifo))
    assert result["error"].startswith(f"StartError: {str(fifo)!r} is not a named pipe")
    assert (fifo.read_text(), left) == ("private", [])
    assert sorted(os.listdir(tmp_path)) == ["pipe", "tmp"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [[], ["true"], ["/none/such"]])
def test_everything_is_closed_after_an_unexpected_error(tmp_path, command):
    fifo = tmp_path / "pipe"
    result, left = run_app(tmp_path, bug=True, fifo=str(fifo), command=command)
    assert result["error"] == "RuntimeError: a bug of the daemon"
    assert not fifo.exists()


# The temporary folder


def test_without_a_usable_temporary_folder_there_is_one_clear_line():
    code = (
        "import tempfile\n"
        # The real list ends with /tmp and others, in which somebody can always write.
        "tempfile._candidate_tempdir_list = lambda: ['/none/such']\n"
        "from benchmarkai.daemon.cli import main; main()"
    )
    result = run_python(code, "stdout", "--", "true")
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert re.search(
        "bai-daemon ERROR: cannot create a temporary folder for the pipe: No usable temporary "
        "directory found in .'/none/such'.: set TMPDIR to a folder in which you can write, or "
        r"choose a path \(--fifo\)$",
        line,
    )


def test_a_temporary_folder_with_a_path_too_long_for_sqlite_is_told(tmp_path):
    folder = tmp_path / ("a" * 250) / ("b" * 250)
    folder.mkdir(parents=True)
    result = run_daemon("stdout", "--", "true", env={"TMPDIR": str(folder)})
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert "bai-daemon ERROR: the path of the spool, " in line
    assert "longer than the 500 bytes that SQLite accepts: " in line
    assert line.endswith("choose a shorter one (--spool, or TMPDIR)")
    assert os.listdir(folder) == []


# Other daemons and other users


def test_a_lock_on_the_pipe_itself_does_not_keep_a_daemon_out(start_daemon, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    lock = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.flock(lock, fcntl.LOCK_EX)
    daemon = start_daemon(*STDOUT)
    daemon.emit("a=1")
    assert daemon.stop().code == 0
    assert daemon.pairs() == [("a", 1)]
    os.close(lock)


def test_the_lock_of_the_pipe_is_removed_at_the_end(start_daemon, tmp_path):
    daemon = start_daemon(*STDOUT)
    assert os.path.exists(daemon.path + ".lock")
    assert daemon.stop().code == 0
    assert not os.path.exists(daemon.path + ".lock")


def test_the_lock_of_a_killed_daemon_does_not_keep_the_next_one_out(start_daemon):
    start_daemon(*STDOUT).kill()
    daemon = start_daemon(*STDOUT)
    daemon.emit("a=1")
    assert daemon.stop().code == 0
    assert daemon.pairs() == [("a", 1)]


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_something_else_in_place_of_the_lock_is_an_error(tmp_path, kind):
    lock = tmp_path / "pipe.lock"
    {
        "folder": lock.mkdir,
        "link": lambda: lock.symlink_to("/none"),
        "pipe": lambda: os.mkfifo(lock),
    }[kind]()
    result = run_daemon("stdout", "--fifo", str(tmp_path / "pipe"))
    assert (result.code, result.out) == (1, "")
    message = (
        f"{str(lock)!r} is not a file of this user: remove it, or choose another path (--fifo)"
    )
    assert result.err.endswith(f"bai-daemon ERROR: {message}\n")
    assert os.listdir(tmp_path) == ["pipe.lock"]


# Becomes another user, who cannot write in the folder of the pipe.
AS_ANOTHER_USER = """
import os
from benchmarkai.daemon import cli
from benchmarkai.daemon.backends import stdout
os.setgid(65534)
os.setuid(65534)
cli.main()
"""


@pytest.fixture
def read_only_folder():
    """A folder with a pipe, into which only this user may put files, and one for spools."""
    if os.geteuid():
        pytest.skip("only root can start a daemon as another user")
    folder = tempfile.mkdtemp(dir="/tmp")
    os.chmod(folder, 0o755)
    os.mkdir(os.path.join(folder, "spools"))
    os.chmod(os.path.join(folder, "spools"), 0o777)
    os.mkfifo(os.path.join(folder, "pipe"))
    os.chmod(os.path.join(folder, "pipe"), 0o666)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_in_which_the_daemon_cannot_write_has_no_lock_file(read_only_folder):
    def start_one(name):
        spool = os.path.join(read_only_folder, "spools", name)
        program = [sys.executable, "-c", AS_ANOTHER_USER]
        arguments = [*STDOUT, "--spool", spool]
        return Daemon(read_only_folder, *arguments, program=program, env=NOT_MEASURED)

    daemon = start_one("spool")
    daemon.emit("a=1")
    second = start_one("other").wait()
    assert (second.code, second.out) == (1, "")
    assert f"another process has locked the pipe {daemon.path!r}: stop it, or choose" in second.err
    daemon.emit("b=2")
    assert daemon.stop().code == 0, daemon.logged()
    assert daemon.pairs() == [("a", 1), ("b", 2)]
    assert not os.path.exists(daemon.path + ".lock")


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    result = run_daemon("stdout", "--fifo", str(tmp_path / "none" / "pipe"))
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert f"cannot use the pipe {str(tmp_path / 'none' / 'pipe')!r}: No such file or" in line


# Runs that share a spool

# Publishes two metrics, and waits in between for a file.
SCRIPT_OF_A_RUN = (
    "bai-emit $0=1; touch started-$0; while [ ! -e go ]; do sleep 0.02; done; bai-emit $0=2"
)


def start_run(tmp_path, name, *options, program=(BAI_DAEMON,)):
    """Start a daemon with a command, and wait until that has published its first metric."""
    arguments = [*STDOUT, "--spool", "spool", *options, "--", "sh", "-c", SCRIPT_OF_A_RUN, name]
    process = start([*program, *arguments], {"PATH": PATH}, cwd=tmp_path, **PIPES)
    wait_until(lambda: (tmp_path / f"started-{name}").exists() or process.poll() is not None)
    return process


def values_in(*outputs):
    metrics = [json.loads(line) for out in outputs for line in out.splitlines()]
    return sorted((metric["name"], metric["value"]) for metric in metrics)


def spools_in(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith("spool"))


@pytest.mark.slow
def test_runs_with_the_same_spool_may_overlap(tmp_path):
    runs = [start_run(tmp_path, name) for name in "ab"]
    assert spools_in(tmp_path)
    (tmp_path / "go").touch()
    results = [finish(process) for process in runs]
    assert [result.code for result in results] == [0, 0], results
    expected = [(name, value) for name in "ab" for value in (1, 2)]
    assert values_in(*(result.out for result in results)) == expected
    path = str(tmp_path / "spool")
    message = f"another run uses the spool {path!r}: this one has {path + '.run2'!r}"
    assert message in results[1].err
    assert set(spools_in(tmp_path)) <= {"spool"}


def run_in(tmp_path, *command):
    arguments = [BAI_DAEMON, *STDOUT, "--spool", "spool", "--", *command]
    return finish(start(arguments, cwd=tmp_path, **PIPES))


@pytest.mark.slow
def test_what_a_run_beside_another_has_rejected_is_kept(tmp_path):
    other = start_run(tmp_path, "a")
    result = run_in(tmp_path, "sh", "-c", 'echo hello > "$BENCHMARK_AI_FIFO_FILEPATH"')
    assert result.code == 1
    (path,) = re.findall(r"rejected 1 line: .*: see (\S+)", result.err)
    assert path == str(tmp_path / "spool.run2.refused")
    assert json.loads((tmp_path / "spool.run2.refused").read_text())["line"] == "hello"
    (tmp_path / "go").touch()
    assert finish(other).code == 0
    # The first run has taken it over.
    assert spools_in(tmp_path) == ["spool", "spool.refused"]
    assert json.loads((tmp_path / "spool.refused").read_text())["line"] == "hello"


@pytest.mark.slow
def test_what_overlapping_runs_could_not_deliver_is_delivered_by_the_next(tmp_path):
    program = [sys.executable, "-c", FAILING]
    runs = [start_run(tmp_path, name, "--shutdown-timeout", "0", program=program) for name in "ab"]
    (tmp_path / "go").touch()
    assert [finish(process).code for process in runs] == [1, 1]
    again = run_in(tmp_path, "true")
    assert (again.code, spools_in(tmp_path)) == (0, ["spool"])
    assert values_in(again.out) == [(name, value) for name in "ab" for value in (1, 2)]


# What an earlier daemon has left


def test_a_corrupt_spool_is_told_once(start_daemon, tmp_path):
    path = tmp_path / "pipe.spool"
    with Spool(str(path), 1 << 30) as spool:
        spool.begin({}, "stdout")
        for start in range(0, 20000, 1000):
            spool.add([("a", number) for number in range(start, start + 1000)])
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        file.write(os.urandom(30000))
    result = start_daemon(*STDOUT).stop()
    message = r"the spool was corrupt: saved (\d+) metrics of it; the old file is now '(.*)'"
    saved, old = re.search(message, result.err).groups()
    assert os.path.exists(old)
    assert len(result.out.splitlines()) == int(saved) > 2000
    assert "was corrupt" not in start_daemon(*STDOUT).stop().err


def test_metrics_for_another_server_are_told_and_delivered(start_daemon, tmp_path):
    other = "influxdb http://localhost:8086"
    with Spool(str(tmp_path / "pipe.spool"), 1 << 30) as spool:
        spool.begin({}, other)
        spool.add([("a", 1), ("b", 2)])
    daemon = start_daemon(*STDOUT)
    wait_until(lambda: daemon.pairs() == [("a", 1), ("b", 2)])
    warning = f"the spool holds 2 metrics for {other}: delivering to stdout"
    assert daemon.stop().err.count(warning) == 1
    assert warning not in start_daemon(*STDOUT).stop().err


def test_metrics_for_the_same_server_are_not_told(start_daemon, tmp_path):
    with Spool(str(tmp_path / "pipe.spool"), 1 << 30) as spool:
        spool.begin({}, "stdout")
        spool.add([("a", 1)])
    daemon = start_daemon(*STDOUT)
    wait_until(lambda: daemon.pairs() == [("a", 1)])
    assert "WARNING" not in daemon.stop().err


@pytest.mark.slow
def test_retry_refused_sends_rejected_metrics_again(start_daemon, tmp_path):
    entries = [
        {"time": 10**18, "name": "old", "value": 1, "labels": {"run": "1"}, "reason": "bad"},
        {"id": "x-7", "time": 10**18, "name": "new", "value": 2.5, "labels": {}, "reason": "bad"},
        {"time": 10**18, "line": "hello", "reason": "it is not JSON"},
    ]
    refused = tmp_path / "pipe.spool.refused"
    refused.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert start_daemon(*STDOUT).stop().out == ""
    daemon = start_daemon(*STDOUT, "--retry-refused")
    wait_until(lambda: len(daemon.pairs()) == 2)
    daemon.emit("now=3")
    result = daemon.stop()
    assert daemon.pairs() == [("old", 1), ("new", 2.5), ("now", 3)]
    assert [metric["labels"] for metric in daemon.metrics()] == [{"run": "1"}, {}, {}]
    assert daemon.metrics()[0]["time"] == "2001-09-09T01:46:40.000000000Z"
    assert daemon.rejected_entries() == entries[2:]
    assert f"took back 2 rejected metrics from {refused}" in result.err
    again = start_daemon(*STDOUT, "--retry-refused").stop()
    assert (again.code, again.out) == (0, "")
    assert f"took back 0 rejected metrics from {refused}" in again.err
    assert daemon.rejected_entries() == entries[2:]


def test_rejected_lines_beyond_the_limit_are_counted_and_not_kept(start_daemon):
    daemon = start_daemon(*STDOUT, "--refused-limit", "1K")
    daemon.write(b"first\n")
    wait_until(lambda: os.path.exists(daemon.rejected))
    for number in range(100):
        daemon.write(b"hello %d\n" % number)
    daemon.write(b'{"a": 1}\n')
    result = daemon.stop()
    assert result.code == 0
    assert daemon.pairs() == [("a", 1)]
    assert os.path.getsize(daemon.rejected) <= 1024
    assert daemon.rejected_entries()[0]["line"] == "first"
    assert f"{daemon.rejected} has reached its limit of 1024 bytes: " in result.err
    assert "received 1, delivered 1, rejected 101, waiting 0" in result.err


# A temporary folder that is removed while the command runs

REMOVE = 'bai-emit a=1; folder=$(dirname "$BENCHMARK_AI_FIFO_FILEPATH"); rm -rf "$folder"; '
AGAIN = 'while [ ! -p "$BENCHMARK_AI_FIFO_FILEPATH" ]; do sleep 0.02; done; bai-emit b=2'


def run_script(script, *options, program=(BAI_DAEMON,)):
    arguments = [*program, *STDOUT, *options, "--", "sh", "-c", script]
    return finish(start(arguments, {"PATH": PATH}, **PIPES))


@pytest.mark.slow
@pytest.mark.parametrize("script", [REMOVE, REMOVE + AGAIN], ids=["at once", "later"])
def test_a_removed_folder_does_not_hinder_the_delivery(tmp_path, script):
    result = run_script(script, "--shutdown-timeout", "1000")
    assert result.code == 0, result.err
    expected = [("a", 1), ("b", 2)] if script.endswith(AGAIN) else [("a", 1)]
    assert values_in(result.out) == expected
    assert f"delivered {len(expected)}, rejected 0, waiting 0" in result.err
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_removed_pipe_gets_its_folder_back_though_the_spool_is_elsewhere(tmp_path):
    result = run_script(REMOVE + AGAIN, "--spool", str(tmp_path / "spool"))
    assert (result.code, values_in(result.out)) == (0, [("a", 1), ("b", 2)])


@pytest.mark.slow
@pytest.mark.parametrize("script", [REMOVE, REMOVE + AGAIN], ids=["at once", "later"])
def test_the_metrics_of_a_removed_folder_are_kept_in_a_new_one(tmp_path, script):
    program = [sys.executable, "-c", FAILING]
    result = run_script(script, "--shutdown-timeout", "0", program=program)
    assert result.code == 1
    expected = [("a", 1), ("b", 2)] if script.endswith(AGAIN) else [("a", 1)]
    command = re.search(r"metrics? (?:is|are) kept in \S+: send with: (.*)", result.err).group(1)
    again = finish(start(["sh", "-c", command], {"PATH": PATH}, **PIPES))
    assert (again.code, values_in(again.out)) == (0, expected)


def test_metrics_that_cannot_be_kept_are_told_to_be_lost():
    # The daemon may create the folder again before something else is in its place.
    script = REMOVE + 'until (set -C; : > "$folder"); do rm -rf "$folder"; done'
    program = [sys.executable, "-c", FAILING]
    result = run_script(script, "--shutdown-timeout", "0", program=program)
    assert result.code == 1
    assert re.search(
        "1 metric is lost: the spool .*/pipe.spool was removed, and could not be created again",
        result.err,
    )
    assert "kept in" not in result.err
    assert "received 1, delivered 0, rejected 0, waiting 1" in result.err


def test_a_spool_elsewhere_outlives_the_folder_of_the_pipe(tmp_path):
    program = [sys.executable, "-c", FAILING]
    options = ["--spool", str(tmp_path / "spool"), "--shutdown-timeout", "0"]
    result = run_script(REMOVE, *options, program=program)
    assert result.code == 1
    assert f"1 metric is kept in {tmp_path / 'spool'}: send with: " in result.err
    assert spools_in(tmp_path) == os.listdir(tmp_path)


@pytest.mark.slow
def test_300000_metrics_of_a_command_are_delivered_with_the_default_time_out(tmp_path):
    count = 300000
    with open(tmp_path / "stream", "w") as stream:
        stream.writelines(f"a={number}\n" for number in range(count))
    result = run_script(f"bai-emit < {tmp_path / 'stream'}")
    assert result.code == 0, result.err
    assert [json.loads(line)["value"] for line in result.out.splitlines()] == list(range(count))
