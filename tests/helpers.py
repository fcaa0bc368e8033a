"""Processes, threads and named pipes for the tests. No wait is without a limit."""

import collections
import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

BAI_EMIT = os.path.join(os.path.dirname(sys.executable), "bai-emit")
BAI_DAEMON = os.path.join(os.path.dirname(sys.executable), "bai-daemon")

# Whether to run the large sizes: 50,000 emits of each thread, 10 million records, ...
FULL = os.environ.get("FAULTS") == "full"

WAIT = 60  # seconds after which a wait has failed

# Variables that switch coverage off in a process: one that becomes another user cannot write its
# data, and one that looks at sys.modules would find what it imports.
NOT_MEASURED = {"COVERAGE_PROCESS_CONFIG": ""}

_now = getattr(time, "monotonic", time.time)  # Python 2 has no time.monotonic()

_running = set()  # processes that finish() has not seen the end of

Result = collections.namedtuple("Result", "code out err")


class Background(object):
    """Calls a function in a thread that may be abandoned."""

    def __init__(self, function):
        self._function = function
        self._outcome = None
        self._thread = threading.Thread(target=self._run)
        self._thread.daemon = True
        self._thread.start()

    def _run(self):
        try:
            self._outcome = (self._function(), None)
        except BaseException as error:
            self._outcome = (None, error)

    def ended_by(self, deadline):
        self._thread.join(max(0.0, deadline - _now()))
        return self._outcome is not None

    def result(self, limit=WAIT):
        """Return what the function returned, or raise what it raised; fail after the limit."""
        assert self.ended_by(_now() + limit), "still running after %g s" % limit
        value, error = self._outcome
        if error is not None:
            raise error
        return value


def bounded(function, limit=WAIT):
    """Call a function that may block, such as process.stdout.readline; fail after the limit."""
    return Background(function).result(limit)


def wait_until(condition, limit=WAIT):
    deadline = _now() + limit
    while not condition():
        assert _now() < deadline, "the condition is still false after %g s" % limit
        time.sleep(0.005)


def start(arguments, env=None, own_group=True, **options):
    """Start a program in a session and process group of its own.

    env: variables to add to the environment.
    own_group: False leaves it in the session, on the terminal and in the group of the tests.
    """
    if own_group and sys.version_info[0] == 2:
        options["preexec_fn"] = os.setsid
    elif own_group:
        options["start_new_session"] = True
    options.setdefault("bufsize", -1)  # Python 2 would read its output byte by byte
    process = subprocess.Popen(arguments, env=dict(os.environ, **(env or {})), **options)
    _running.add(process)
    return process


def finish(process, stdin=None, limit=WAIT):
    """Wait until the process has ended and nobody holds its pipes open; return its Result.

    Unlike Popen.communicate(), it returns what readline() left in a buffer, and works with a
    limit on Python 2. After the limit it kills the process group and fails. A descendant that
    has left the group may hold a pipe open for longer than that; its reader is abandoned.

    stdin: bytes for the process to read.
    """
    deadline = _now() + limit
    parts = {stream: [] for stream in (process.stdout, process.stderr) if stream is not None}
    tasks = [Background(lambda stream=stream: _read(stream, parts[stream])) for stream in parts]
    if process.stdin is not None:
        tasks.append(Background(lambda: _write(process.stdin, stdin or b"")))
    drained = all([task.ended_by(deadline) for task in tasks])
    if not drained or not _has_ended(process, deadline):
        _kill_group(process)
        _has_ended(process, _now() + 5)
        raise AssertionError(
            "the process, or another one that holds its pipes open, was still running after %g s; "
            "its output ended with %r"
            % (limit, [b"".join(lines)[-2000:] for lines in parts.values()])
        )
    for task in tasks:
        task.result()
    for stream in parts:
        stream.close()
    _running.discard(process)
    out, err = [
        None if stream is None else b"".join(parts[stream]).decode("utf-8", "replace")
        for stream in (process.stdout, process.stderr)
    ]
    return Result(process.returncode, out, err)


def kill(process):
    """Kill the process and its group, and return its Result."""
    _kill_group(process)
    return finish(process)


def kill_leftovers():
    """Kill the processes that a failed test has left behind, with their groups."""
    while _running:
        process = _running.pop()
        if process.poll() is None:
            _kill_group(process)
            _has_ended(process, _now() + 5)


def run(arguments, stdin=None, env=None, limit=WAIT, **options):
    """Run the program to its end, and return its Result; stdin: bytes."""
    for stream in ("stdout", "stderr"):
        options.setdefault(stream, subprocess.PIPE)
    options.setdefault("stdin", subprocess.PIPE if stdin is not None else None)
    return finish(start(arguments, env, **options), stdin, limit)


def is_installed(program):
    return any(os.access(os.path.join(p, program), os.X_OK) for p in os.environ["PATH"].split(":"))


def read_text(*path):
    """Return the text of a file of the project."""
    with io.open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def add_program(script, program):
    """Write a script that runs the program. A link would not do: Python would miss its packages."""
    script.write('#!/bin/sh\nexec "%s" "$@"\n' % program, ensure=True)
    script.chmod(0o755)


def path_with_programs(folder):
    """Put python, bai-emit and bai-daemon into the folder; return a PATH with them."""
    add_program(folder.join("python"), sys.executable)
    add_program(folder.join("bai-emit"), BAI_EMIT)
    add_program(folder.join("bai-daemon"), BAI_DAEMON)
    return "%s:%s" % (folder, os.environ["PATH"])


def run_python(code, *arguments, **options):
    return run([sys.executable, "-c", code] + list(arguments), **options)


def _read(stream, parts):
    for line in iter(stream.readline, b""):
        parts.append(line)


def _write(stream, data):
    try:
        if data:
            stream.write(data)
        stream.close()
    except EnvironmentError as error:
        if error.errno != errno.EPIPE:  # the process did not read all of it
            raise


def _has_ended(process, deadline):
    while process.poll() is None:
        if _now() >= deadline:
            return False
        time.sleep(0.001)
    return True


def _kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except EnvironmentError as error:
        if error.errno != errno.ESRCH:
            raise
        if process.poll() is None:  # started with own_group=False
            process.kill()


class FifoReader(object):
    """A new named pipe, and its reading end once that is open."""

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

    def read(self, limit=WAIT):
        """Return all that is in the pipe, as text."""
        deadline = _now() + limit
        blocks = [self.read_block()]
        while blocks[-1]:
            assert _now() < deadline, "the pipe was not empty once in %g s" % limit
            blocks.append(self.read_block())
        return "".join(blocks)

    def read_block(self):
        """Return some of what is in the pipe, as text; "" if it is empty."""
        try:
            return os.read(self.descriptor, 1 << 16).decode("ascii")
        except EnvironmentError as error:
            if error.errno != errno.EAGAIN:
                raise
            return ""

    def fill(self):
        """Write newlines until the pipe is full, and return their number."""
        writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        count = 0
        try:
            while True:
                count += os.write(writer, b"\n" * 4096)
        except EnvironmentError as error:
            if error.errno != errno.EAGAIN:
                raise
            return count
        finally:
            os.close(writer)

    def env(self, max_wait=WAIT, step=0.01):
        """Return the variables that make a program write to this pipe."""
        return {
            "BENCHMARK_AI": "fifo",
            "BENCHMARK_AI_FIFO_FILEPATH": self.path,
            "BENCHMARK_AI_FIFO_MAX_WAIT_TIME": str(max_wait),
            "BENCHMARK_AI_FIFO_WAIT_TIME_STEP": str(step),
        }
