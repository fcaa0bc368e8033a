"""Real pipes, real processes, and waits that end."""

import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

WAIT = 60  # seconds after which a wait has failed

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Set by many containers, it hides mistakes in buffering.
os.environ.pop("PYTHONUNBUFFERED", None)
for variable in list(os.environ):
    if variable.startswith("BENCHMARK_AI"):
        del os.environ[variable]


class Result(object):
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


def start(arguments, env=None, **options):
    return subprocess.Popen(arguments, env=dict(os.environ, **(env or {})), **options)


def finish(process, stdin=None):
    """Wait for the process to end, and return its Result."""
    timer = threading.Timer(WAIT, process.kill)
    timer.start()
    try:
        out, err = process.communicate(stdin)
    finally:
        timer.cancel()
    texts = [None if data is None else data.decode("utf-8", "replace") for data in (out, err)]
    return Result(process.returncode, *texts)


def run(arguments, stdin=None, env=None, **options):
    """Run the program to its end; stdin: bytes."""
    for stream in ("stdout", "stderr"):
        options.setdefault(stream, subprocess.PIPE)
    options.setdefault("stdin", subprocess.PIPE if stdin is not None else None)
    return finish(start(arguments, env, **options), stdin)


def run_python(code, *arguments, **options):
    return run([sys.executable, "-c", code] + list(arguments), **options)


def wait_until(condition):
    end = time.time() + WAIT
    while not condition():
        assert time.time() < end, "waited %d s in vain" % WAIT
        time.sleep(0.005)


class Pipe(object):
    """A named pipe, and its reader when it is open."""

    def __init__(self, path):
        self.path = path
        self.descriptor = None
        os.mkfifo(path)

    def open(self):
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        # On Python 2 the processes under test would inherit it.
        fcntl.fcntl(self.descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)

    def close(self):
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def read(self):
        """Return what is in the pipe, as text."""
        return "".join(iter(self.read_block, ""))

    def read_block(self):
        """Return some of what is in the pipe, as text: nothing if it is empty."""
        try:
            return os.read(self.descriptor, 1 << 16).decode("ascii")
        except EnvironmentError:  # EAGAIN
            return ""

    def fill(self):
        """Write to it until it is full; return the number of bytes."""
        writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        count = 0
        try:
            while True:
                count += os.write(writer, b"\n" * 4096)
        except EnvironmentError:
            return count
        finally:
            os.close(writer)

    def env(self, max_wait=WAIT, step=0.01):
        return {
            "BENCHMARK_AI": "fifo",
            "BENCHMARK_AI_FIFO_FILEPATH": self.path,
            "BENCHMARK_AI_FIFO_MAX_WAIT_TIME": str(max_wait),
            "BENCHMARK_AI_FIFO_WAIT_TIME_STEP": str(step),
        }


@pytest.fixture
def pipe(tmpdir):
    """A named pipe with a reader."""
    pipe = Pipe(str(tmpdir.join("pipe")))
    pipe.open()
    yield pipe
    pipe.close()


# The daemon needs Python 3.9.
collect_ignore_glob = [] if sys.version_info >= (3, 9) else ["test_daemon*.py"]
