"""Whatever happens in a run, every part of the daemon is closed afterwards."""

import json
import os

import pytest

from tests.helpers import run_python

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
    spool=case["spool"],
    spool_limit=1 << 30,
    batch_size=1000,
    flush_interval=0.01,
    shutdown_timeout=case["shutdown_timeout"],
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


@pytest.mark.parametrize(
    "backend, failure, waiting, left",
    [
        ("fatal", "it cannot go on", 1, ["pipe.spool"]),
        ("bug", "a bug of the backend", 1, ["pipe.spool"]),
        ("unavailable", None, 1, ["pipe.spool"]),
        ("unexpected", None, 1, ["pipe.spool"]),
        ("rejects", None, 0, ["pipe.spool", "pipe.spool.refused"]),
    ],
)
def test_the_folder_is_kept_if_something_was_not_delivered(
    tmp_path, backend, failure, waiting, left
):
    timeout = 30 if backend == "rejects" else 0.1
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


@pytest.mark.parametrize("command", [[], ["true"], ["/none/such"]])
def test_everything_is_closed_after_an_unexpected_error(tmp_path, command):
    fifo = tmp_path / "pipe"
    result, left = run_app(tmp_path, bug=True, fifo=str(fifo), command=command)
    assert result["error"] == "RuntimeError: a bug of the daemon"
    assert not fifo.exists()
