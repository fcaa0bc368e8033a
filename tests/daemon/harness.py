"""A running bai-daemon, for the tests and the benchmarks of the daemon."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile

from benchmarkai.daemon.pipe import Pipe
from tests.helpers import (
    BAI_DAEMON,
    BAI_EMIT,
    Result,
    bounded,
    finish,
    kill,
    run,
    start,
    wait_until,
)

# The PATH of a user who has installed the package.
PATH = os.pathsep.join([os.path.dirname(BAI_DAEMON), os.environ.get("PATH", os.defpath)])

# A bai-daemon whose server, stdout, is down.
FAILING = """
from benchmarkai.daemon import cli
from benchmarkai.daemon.backends import base, stdout

def send(self, metrics):
    raise base.Unavailable("it is down")

stdout.Backend.send = send
cli.main()
"""

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


class Daemon:
    """A bai-daemon that has logged its start, or has ended.

    folder: where its pipe and its spool are, and where its output goes.
    arguments: the backend and its options.
    program: what to run in place of bai-daemon.
    options: those of tests.helpers.start(); stdout and stderr go to files by default.
    """

    def __init__(self, folder, *arguments, program=(BAI_DAEMON,), **options):
        self.path = os.path.join(folder, "pipe")
        self.spool = self.path + ".spool"
        self.rejected = self.spool + ".refused"
        with contextlib.ExitStack() as stack:
            self._files = {}
            for stream in ("stdout", "stderr"):
                file = tempfile.NamedTemporaryFile(
                    prefix=stream + "-", dir=folder, delete=False, mode="wb"
                )
                self._files[stream] = stack.enter_context(file).name
                options.setdefault(stream, file)
            command = [*program, *arguments, "--fifo", self.path]
            self.process = start(command, **options)
        # The pipe alone says nothing: it may have existed before.
        wait_until(lambda: self.has_ended() or " INFO: reading " in self.logged())

    @property
    def pid(self):
        return self.process.pid

    def has_ended(self):
        return self.process.poll() is not None

    def emit(self, *arguments, stdin=None):
        """Publish metrics with bai-emit."""
        result = run([BAI_EMIT, "--fifo", self.path, *arguments], stdin=stdin)
        assert result == (0, "", "")

    def write(self, data):
        """Write bytes to the pipe."""

        def write():
            with open(self.path, "wb", buffering=0) as pipe:
                pipe.write(data)

        bounded(write)

    def logged(self):
        """Return the text on stderr so far."""
        return self._read("stderr")

    def wait_for_log(self, text):
        wait_until(lambda: text in self.logged() or self.has_ended())
        assert text in self.logged()

    def metrics(self):
        """Return what the backend stdout has printed so far, without an unfinished line."""
        lines = self._read("stdout").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def pairs(self):
        """Return the (name, value) of each of the metrics()."""
        return [(metric["name"], metric["value"]) for metric in self.metrics()]

    def rejected_entries(self):
        with open(self.rejected) as file:
            return [json.loads(line) for line in file]

    def stop(self, number=signal.SIGTERM):
        """Send a signal to stop, and return the Result."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        """Return the Result once the daemon has ended."""
        result = finish(self.process)
        return Result(result.code, self._read("stdout"), self._read("stderr"))

    def kill(self):
        kill(self.process)

    def _read(self, stream):
        with open(self._files[stream], encoding="utf-8", errors="replace") as file:
            return file.read()


def write(pipe, data):
    """Write to a daemon.pipe.Pipe of this process."""
    descriptor = os.open(pipe.path, os.O_WRONLY | os.O_NONBLOCK)
    assert os.write(descriptor, data) == len(data)
    os.close(descriptor)


def receive(spool, data):
    """Let a spool of this process receive the data from a pipe beside it."""
    with Pipe(spool.path + ".pipe", 0o622) as pipe:
        write(pipe, data)
        spool.receive(pipe)


def rejected_entries(spool):
    """Return the entries in the file of what was rejected."""
    if not os.path.exists(spool.rejects.path):
        return []
    with open(spool.rejects.path) as file:
        return [json.loads(line) for line in file]


def run_daemon(*arguments, **options):
    """Run bai-daemon to its end, and return its Result."""
    return run([BAI_DAEMON, *arguments], **options)


def open_descriptors(pid="self"):
    """Return what the descriptors of a process refer to, by their numbers."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that has read the folder
            found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found
