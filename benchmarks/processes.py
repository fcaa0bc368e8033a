"""What a process takes: time, CPU time, memory, and instructions."""

import concurrent.futures
import contextlib
import os
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

CORES = sorted(os.sched_getaffinity(0))
MEASURED, OTHER = CORES[0], CORES[-1]  # what is measured has a core of its own, if there are two

# Variables of the user that would change what is measured.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("BENCHMARK_AI", "BAI_DAEMON", "COVERAGE", "OTEL", "PYTHON"))
}

# Started with -I -S, because the peak memory of a process is at least that of the one that
# started it.
_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
status, usage = os.wait4(pid, 0)[1:]
seconds = time.perf_counter() - start
print(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, file=sys.stderr)
sys.exit(status != 0)
"""


class Usage(NamedTuple):
    """seconds: of a clock; cpu: seconds of all its threads; memory: the most at a time, in MiB."""

    seconds: float
    cpu: float
    memory: float


class Command(NamedTuple):
    """env: variables to add to the environment; stdin, stdout: files."""

    arguments: list
    env: dict = {}
    stdin: str = os.devnull
    stdout: str = os.devnull


@contextlib.contextmanager
def pinned(core):
    """Run on this core, together with the processes that start meanwhile and stay there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(command):
    """Run the command to its end, on a core of its own, and return its Usage."""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command.arguments]
    return Usage(*map(float, run(command._replace(arguments=launcher)).split()[-3:]))


def run(command):
    """Run the command to its end, on a core of its own, and return what is on its stderr."""
    with pinned(MEASURED):
        return _run(command)


def count_instructions(commands):
    """Return how many instructions each command takes in user space; none without valgrind.

    They differ little from run to run, so there is one run of each.
    """
    if shutil.which("valgrind") is None:
        return {}
    tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]

    def count(command):
        stderr = _run(
            command._replace(
                arguments=[*tool, *command.arguments],
                env={"PYTHONHASHSEED": "0", **command.env},
            )
        )
        return int(re.search(r"Collected : (\d+)", stderr).group(1))

    with concurrent.futures.ThreadPoolExecutor(len(CORES)) as pool:
        return dict(zip(commands, pool.map(count, commands.values())))


def instructions_of_each(make_commands, count):
    """Return the instructions of one call, or one line, in each command; none without valgrind.

    make_commands: returns the commands for a number of them. What the start takes is left out.
    """
    short, long = (count_instructions(make_commands(number)) for number in (count, 3 * count))
    return {key: (long[key] - short[key]) / (2 * count) for key in short}


def _run(command):
    with open(command.stdin, "rb") as stdin, open(command.stdout, "wb") as stdout:
        result = subprocess.run(
            command.arguments,
            env={**ENVIRONMENT, **command.env},
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
    if result.returncode:
        raise RuntimeError(f"{command.arguments} exited with {result.returncode}: {result.stderr}")
    return result.stderr
