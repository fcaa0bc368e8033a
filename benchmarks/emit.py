"""One call in a running process: emit(), and what others offer in its place."""

import os
import socket
import subprocess
import sys

from benchmarks import report
from benchmarks.processes import (
    ENVIRONMENT,
    OTHER,
    Command,
    instructions_of_each,
    pinned,
    run,
)

ROUNDS = 21
CALLS = 10000
COUNTED = 500  # calls whose instructions are counted

ONE, TWENTY = "`emit()` of one metric, FIFO", "`emit()` of twenty metrics, FIFO"
PRINT = {1: "`print(json.dumps())` of one, flushed", 20: "`print(json.dumps())` of twenty, flushed"}
RATIO = "CPU time relative to `print`"

# The work of calls.py in each row, with which library, mode and number of metrics.
_WORKS = {
    ONE: ("emit", None, "fifo", 1),
    "`emit()` of one metric, stdout": ("emit", None, "stdout", 1),
    PRINT[1]: ("print", None, "stdout", 1),
    "`emit()` of the released 0.1, one metric, FIFO": ("emit", "released", "fifo", 1),
    "the same, stdout, not flushed": ("emit", "released", "stdout", 1),
    "`os.write` of the same line": ("write", None, "stdout", 1),
    "DogStatsD, a gauge": ("dogstatsd", "peers", "stdout", 1),
    "pystatsd, a gauge": ("pystatsd", "peers", "stdout", 1),
    TWENTY: ("emit", None, "fifo", 20),
    "`emit()` of twenty metrics, stdout": ("emit", None, "stdout", 20),
    PRINT[20]: ("print", None, "stdout", 20),
    "`emit()` of the released 0.1, twenty metrics, FIFO": ("emit", "released", "fifo", 20),
}

TABLE = report.Table(
    "call",
    {
        "instructions": report.count,
        "CPU time": report.seconds,
        "time": report.seconds,
        RATIO: report.ratio,
    },
    list(_WORKS),
)

# This process reads the pipe to which all calls write, as a FIFO or as stdout. It reads as daemons
# do: large blocks, from a pipe that holds what is written in between. A reader that wakes up for
# every line, or a pipe that is sometimes full, would slow down the writer, and be measured instead.
_READER = """
import fcntl, os, sys, time
pipe = os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK)
F_SETPIPE_SZ = 1031  # fcntl(2), Linux
fcntl.fcntl(pipe, F_SETPIPE_SZ, 1 << 20)
print("ready", flush=True)
while True:
    try: os.read(pipe, 1 << 16)
    except BlockingIOError: time.sleep(0.0005)
"""


def measure_emits(lab, scale):
    pipe = lab.path("pipe")
    os.mkfifo(pipe)
    with pinned(OTHER):
        reader = subprocess.Popen(
            [sys.executable, "-c", _READER, pipe], env=ENVIRONMENT, stdout=subprocess.PIPE
        )
    # What is sent here is not read: the kernel drops it in the end, and the clients do not care.
    with reader, socket.socket(type=socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        reader.stdout.readline()
        try:
            return _measure(lab, scale, pipe, statsd.getsockname()[1])
        finally:
            reader.kill()


def _measure(lab, scale, pipe, port):
    def commands(calls):
        found = {}
        for row, (work, library, mode, metrics) in _WORKS.items():
            folder = library and getattr(lab, library)
            if library and not folder:
                continue
            program = os.path.join(os.path.dirname(__file__), "calls.py")
            env = {"BENCHMARK_AI": mode, "BENCHMARK_AI_FIFO_FILEPATH": pipe, "PORT": str(port)}
            if folder:
                env["PYTHONPATH"] = folder
            arguments = [lab.python, program, work, str(metrics), str(calls)]
            found[row] = Command(arguments, env, stdout=pipe)
        return found

    counted = instructions_of_each(commands, max(10, int(COUNTED * scale)))
    figures = {(row, "instructions"): [count] for row, count in counted.items()}
    timed = commands(max(10, int(CALLS * scale)))
    for _ in range(max(1, int(ROUNDS * scale))):
        found = {row: list(map(float, run(c).split()[-2:])) for row, c in timed.items()}
        for row, (seconds, cpu) in found.items():
            for column, value in (
                ("CPU time", cpu),
                ("time", seconds),
                (RATIO, cpu / found[PRINT[_WORKS[row][-1]]][1]),
            ):
                figures.setdefault((row, column), []).append(value)
    return figures
