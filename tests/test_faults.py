"""Load, killed processes and hostile streams, with a count of every metric.

Each metric has a number of its own, so that the reader knows of each whether it arrived once,
twice, torn or not at all. The sizes are small by default; tox -e faults runs the full ones.
"""

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from benchmarkai import FifoNotReadInTimeError
from benchmarkai.fifo import FifoSink
from tests.helpers import (
    BAI_EMIT,
    FULL,
    WAIT,
    Background,
    FifoReader,
    bounded,
    finish,
    kill,
    run_python,
    start,
    wait_until,
)

pytestmark = [pytest.mark.slow] if FULL else []


def size(small, full):
    return full if FULL else small


LIMIT = size(WAIT, 1800)  # seconds for the longest steps


class BackgroundReader(object):
    """Reads the pipe in the background, until all writers have ended."""

    def __init__(self, fifo, pause=0.0005):
        self.fifo, self.pause = fifo, pause
        self.texts = []
        self.writers_ended = threading.Event()
        self.task = Background(self.read)

    def read(self):
        while not self.writers_ended.is_set():
            self.texts.append(self.fifo.read_block())
            time.sleep(self.pause)
        self.texts.append(self.fifo.read())

    def lines(self):
        self.writers_ended.set()
        self.task.result()
        return "".join(self.texts).splitlines(True)


def metrics_of(lines):
    """Return the (name, value) pairs of the lines, and fail if any line is torn."""
    found = []
    for line in lines:
        assert line.endswith("}\n"), "torn: %r" % line
        found.extend(json.loads(line, object_pairs_hook=list))
    return found


PYTHON_WRITER = """
import random, sys
from benchmarkai import emit
writer, calls = int(sys.argv[1]), int(sys.argv[2])
number = 0
for _ in range(calls):
    count = random.choice([1, 2, 5, 20, 300])
    emit(dict(("writer%d.%d" % (writer, number + n), number + n) for n in range(count)))
    number += count
print(number)
"""

STREAM_WRITER = """
import json, random, sys
writer, calls = int(sys.argv[1]), int(sys.argv[2])
number = 0
for _ in range(calls):
    count = random.choice([1, 2, 5, 20, 300])
    metrics = [("writer%d.%d" % (writer, number + n), number + n) for n in range(count)]
    if random.random() < 0.5:
        print(json.dumps(dict(metrics), indent=random.choice([None, 1])))
    else:
        print(" ".join("%s=%d" % metric for metric in metrics))
    number += count
sys.stderr.write("%d" % number)
"""

SHELL_WRITER = """
for n in $(seq 0 $(($2 - 1))); do
    printf '{"writer%d.%d": %d}\\n' "$1" "$n" "$n" >> "$BENCHMARK_AI_FIFO_FILEPATH"
done
echo "$2"
"""


def test_many_writers_of_all_kinds_and_a_slow_reader(fifo):
    calls = size(20, 1000)
    env = fifo.env(max_wait=LIMIT)
    reader = BackgroundReader(fifo, pause=0.002)
    writers = []
    for index in range(32):
        arguments = [str(index), str(calls)]
        if index % 8 == 0:
            command = ["sh", "-c", SHELL_WRITER, "sh"] + arguments
        elif index % 4 == 1:
            script = '"$1" -c "$2" "$3" "$4" | "$5"'
            command = ["sh", "-c", script, "sh", sys.executable, STREAM_WRITER] + arguments
            command.append(BAI_EMIT)
        else:
            command = [sys.executable, "-c", PYTHON_WRITER] + arguments
        writers.append(start(command, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    expected = []
    for index, writer in enumerate(writers):
        code, out, err = finish(writer, limit=LIMIT)
        assert code == 0, err
        expected += [("writer%d.%d" % (index, n), n) for n in range(int(out or err))]
    assert sorted(metrics_of(reader.lines())) == sorted(expected)


def test_writers_killed_at_random_moments_tear_no_line(fifo):
    code = "from benchmarkai import emit\nwhile True: emit({'x' * 1500: 1, 'y' * 1500: 2, 'z': 3})"
    reader = BackgroundReader(fifo)
    writers = []
    for _ in range(size(20, 200)):
        writers.append(start([sys.executable, "-c", code], fifo.env()))
        if len(writers) == 4:
            before = len(reader.texts)
            wait_until(lambda: any(reader.texts[before:]))
            time.sleep(random.random() / 50)  # the random moment
            kill(writers.pop(random.randrange(4)))
    for writer in writers:
        kill(writer)
    assert {value for _, value in metrics_of(reader.lines())} == {1, 2, 3}


# Writes what it reads to the file "seen". After SIGUSR1 it writes the next block to the file
# "lost" instead, and dies: a reader that is killed loses what it has read but not yet saved.
MORTAL_READER = """
import os, signal, sys
path, directory = sys.argv[1:]
dying = []
signal.signal(signal.SIGUSR1, lambda *_: dying.append(True))
pipe = os.open(path, os.O_RDWR)
flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
seen, lost = [os.open(os.path.join(directory, name), flags) for name in ("seen", "lost")]
os.write(1, b"ready")
while True:
    try:
        block = os.read(pipe, 65536)
    except OSError:
        continue
    os.write(lost if dying else seen, block)
    if dying:
        os.kill(os.getpid(), signal.SIGKILL)
"""

NUMBERS = """
import os, sys, time
from benchmarkai import emit
writer, stop = sys.argv[1:]
number = 0
while not os.path.exists(stop):
    emit({"writer%s.%d" % (writer, number): number})
    number += 1
    time.sleep(0.0005)
print(number)
"""


def start_mortal_reader(path, directory):
    command = [sys.executable, "-c", MORTAL_READER, path, str(directory)]
    reader = start(command, stdout=subprocess.PIPE)
    assert bounded(lambda: reader.stdout.read(5)) == b"ready"
    return reader


def wait_until_stopped(process):
    def is_stopped():
        with open("/proc/%d/stat" % process.pid) as file:
            return " T " in file.read()

    wait_until(is_stopped)


@pytest.mark.parametrize("recreate", [False, True])
def test_every_metric_is_accounted_for_if_the_reader_is_killed_and_comes_back(recreate, tmpdir):
    fifo = FifoReader(str(tmpdir.join("fifo")))
    stop = tmpdir.join("stop")
    reader = start_mortal_reader(fifo.path, tmpdir)
    writers = [
        start(
            [sys.executable, "-c", NUMBERS, str(number), str(stop)],
            fifo.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    seen, discarded = tmpdir.join("seen"), []
    for _ in range(size(5, 20)):
        length = seen.size()
        wait_until(lambda: seen.size() > length)
        reader.send_signal(signal.SIGUSR1)
        assert finish(reader).code == -signal.SIGKILL
        if recreate:
            # The kernel discards what is in a pipe that nobody has open, so read that first.
            for writer in writers:
                writer.send_signal(signal.SIGSTOP)
            for writer in writers:
                wait_until_stopped(writer)
            fifo.open()
            discarded.append(fifo.read())
            fifo.close()
            os.unlink(fifo.path)
            os.mkfifo(fifo.path)
            for writer in writers:
                writer.send_signal(signal.SIGCONT)
        reader = start_mortal_reader(fifo.path, tmpdir)
    stop.write("")
    expected = set()
    for index, writer in enumerate(writers):
        code, out, err = finish(writer)
        assert (code, err) == (0, "")
        expected |= {("writer%d.%d" % (index, n), n) for n in range(int(out))}
    fifo.open()
    wait_until(lambda: not select.select([fifo.descriptor], [], [], 0)[0])
    kill(reader)
    rest = fifo.read()
    fifo.close()
    arrived = metrics_of((seen.read() + rest).splitlines(True))
    lost = metrics_of((tmpdir.join("lost").read() + "".join(discarded)).splitlines(True))
    assert len(arrived) == len(set(arrived)), "some arrived twice"
    assert set(arrived) | set(lost) == expected
    assert not set(arrived) & set(lost)


def test_a_reader_that_is_stopped_and_continued_loses_nothing(tmpdir):
    fifo = FifoReader(str(tmpdir.join("fifo")))
    reader = start_mortal_reader(fifo.path, tmpdir)
    reader.send_signal(signal.SIGSTOP)
    sink = FifoSink(fifo.path, 0.2, 0.01)
    sent = 0
    with pytest.raises(FifoNotReadInTimeError):
        while True:
            sink.write(['{"%s": %d}\n' % ("x" * 1000, sent)])
            sent += 1
    reader.send_signal(signal.SIGCONT)
    FifoSink(fifo.path, WAIT, 0.01).write(['{"%s": %d}\n' % ("x" * 1000, sent)])
    last = '": %d}\n' % sent
    wait_until(lambda: tmpdir.join("seen").read().endswith(last))
    kill(reader)
    values = [value for _, value in metrics_of(tmpdir.join("seen").read().splitlines(True))]
    assert values == list(range(sent + 1))


FORKS = """
import os, threading
from benchmarkai import emit
def work(name):
    for n in range(100): emit({"%s.%d" % (name, n): n})
threads = [threading.Thread(target=work, args=("thread%d" % n,)) for n in range(16)]
for thread in threads: thread.start()
children = []
for n in range(8):
    pid = os.fork()
    if not pid:
        work("child%d" % n)
        os._exit(0)
    children.append(pid)
work("parent")
for thread in threads: thread.join()
for pid in children: assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("mode", ["stdout", "fifo"])
def test_forks_while_threads_emit_lose_and_duplicate_nothing(mode, fifo):
    if mode == "fifo":
        reader = BackgroundReader(fifo)
        result = run_python(FORKS, env=fifo.env())
        lines = reader.lines()
    else:
        result = run_python(FORKS)
        lines = result.out.splitlines(True)
    assert result.code == 0, result.err
    names = ["thread%d" % n for n in range(16)] + ["child%d" % n for n in range(8)] + ["parent"]
    expected = [("%s.%d" % (name, n), n) for name in names for n in range(100)]
    assert sorted(metrics_of(lines)) == sorted(expected)


GOOD = b'{"good": 1}\n'
MEGA = 1 << 20

# name: (blocks of one round, rounds in small and in full)
STREAMS = {
    "a line without end": ([b"x" * MEGA], 64, 1024),
    "an object without end": ([b'{"a": 1,\n', b'"bbbbbbbbb": 1,\n' * 65536], 16, 256),
    "one long object after the other": ([b'{"a": "' + b"x" * MEGA + b'"}\n', GOOD], 20, 200),
    "many names": (None, 100000, 10000000),
    "deep nesting": ([b'{"a": ' + b"[" * 500000 + b"\n", GOOD], 10, 100),
    "deep objects": ([b'{"a":' * 100000 + b"\n", GOOD], 10, 100),
    "errors in a row": ([b"this is no metric\n" * 10000, GOOD], 1, 10),
    "escapes in a string without end": ([b'{"' + b'\\"' * 500000 + b"\n", GOOD], 5, 50),
    "long numbers": ([b'{"a": 1' + (b', "a": ' + b"1" * 4300) * 200 + b"}\n", GOOD], 5, 50),
    "NUL bytes": ([b"\0" * 1000 + b"\n", b'{"\0": 1}\n', GOOD], 100, 1000),
    "lone surrogates": ([b'{"\\ud800": 1}\n', b"\xed\xa0\x80=1\n", GOOD], 100, 1000),
    "numbers of 10,000 digits": (
        [b"a=" + b"1" * 10000 + b"\n", b'{"a": ' + b"1" * 10000 + b"}\n", GOOD],
        100,
        1000,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STREAMS))
def test_a_hostile_stream_takes_little_memory_and_costs_no_good_record(name):
    blocks, small, full = STREAMS[name]
    rounds = size(small, full)
    process = start(
        [BAI_EMIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    good = Background(lambda: sum(line == GOOD for line in process.stdout))
    messages = Background(lambda: sum(1 for line in process.stderr))

    def write():
        for index in range(rounds):
            for block in blocks or [('{"name%d": %d}\n' % (index, index)).encode()]:
                process.stdin.write(block)
        process.stdin.write(b"\n" + GOOD)
        process.stdin.flush()

    bounded(write, LIMIT)
    with open("/proc/%d/status" % process.pid) as file:
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", file.read())
    bounded(process.stdin.close)
    assert good.result(LIMIT) == 1 + rounds * (blocks or []).count(GOOD)
    assert (messages.result() == 0) == (blocks is None)
    assert finish(process).code == (0 if blocks is None else 2)
    assert int(peak) < 64 * 1024


def test_a_stream_without_end_is_published_as_it_arrives():
    process = start(["sh", "-c", 'yes a=1 | "$0"', BAI_EMIT], stdout=subprocess.PIPE)

    def read():
        count = size(100000, 2000000)
        return all(process.stdout.readline() == b'{"a": 1}\n' for _ in range(count))

    assert bounded(read, LIMIT)
    kill(process)
