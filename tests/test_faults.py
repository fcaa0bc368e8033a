"""Load, killed processes and hostile streams, with a count of every metric.

Each metric has a number of its own, so that the reader can say of each: once, lost, twice or
torn. The sizes here are small; tox -e faults runs them in full.
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
from conftest import WAIT, Pipe, finish, run_python, start, wait_until

from benchmarkai import FifoNotReadInTimeError
from benchmarkai.fifo import Fifo

FULL = os.environ.get("FAULTS") == "full"
BAI_EMIT = os.path.join(os.path.dirname(sys.executable), "bai-emit")


def size(small, full):
    return full if FULL else small


class Reader(threading.Thread):
    """Reads the pipe until it is told that all writers have ended."""

    def __init__(self, pipe, pause=0.0):
        super(Reader, self).__init__()
        self.pipe, self.pause = pipe, pause
        self.texts = []
        self.ended = threading.Event()
        self.start()

    def run(self):
        while not self.ended.is_set():
            self.texts.append(self.pipe.read_block())
            time.sleep(self.pause or 0.0005)
        self.texts.append(self.pipe.read())

    def lines(self):
        self.ended.set()
        self.join()
        return "".join(self.texts).splitlines(True)


def metrics_of(lines):
    """Return the (name, value) of all lines, each of which must be whole."""
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


def test_many_writers_of_all_kinds_and_a_slow_reader(pipe):
    calls = size(20, 1000)
    env = pipe.env(max_wait=600)
    reader = Reader(pipe, pause=0.002)
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
        out, err = writer.communicate()
        assert writer.returncode == 0, err
        count = int(out or err)
        expected += [("writer%d.%d" % (index, n), n) for n in range(count)]
    assert sorted(metrics_of(reader.lines())) == sorted(expected)


def test_writers_killed_at_random_moments_tear_nothing(pipe):
    code = "from benchmarkai import emit\nwhile True: emit({'x' * 1500: 1, 'y' * 1500: 2, 'z': 3})"
    reader = Reader(pipe)
    writers = []
    for _ in range(size(20, 200)):
        writers.append(start([sys.executable, "-c", code], pipe.env()))
        if len(writers) == 4:
            before = len(reader.texts)
            wait_until(lambda: any(reader.texts[before:]))
            time.sleep(random.random() / 50)  # the random moment
            victim = writers.pop(random.randrange(4))
            victim.kill()
            victim.wait()
    for writer in writers:
        writer.kill()
        writer.wait()
    assert {value for _, value in metrics_of(reader.lines())} == {1, 2, 3}


# Keeps what it has read in the file "seen". Told to by SIGUSR1, it puts the next block that it
# reads into the file "hands" instead, and dies: with the metrics in its hands, so to speak.
MORTAL_READER = """
import os, signal, sys
path, folder = sys.argv[1:]
dying = []
signal.signal(signal.SIGUSR1, lambda *_: dying.append(True))
pipe = os.open(path, os.O_RDWR)
flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
seen, hands = [os.open(os.path.join(folder, name), flags) for name in ("seen", "hands")]
os.write(1, b"ready")
while True:
    try:
        block = os.read(pipe, 65536)
    except OSError:
        continue
    os.write(hands if dying else seen, block)
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


@pytest.mark.parametrize("anew", [False, True])
def test_the_reader_is_killed_and_comes_back(anew, tmpdir):
    pipe = Pipe(str(tmpdir.join("pipe")))
    stop = tmpdir.join("stop")

    def start_reader():
        command = [sys.executable, "-c", MORTAL_READER, pipe.path, str(tmpdir)]
        reader = start(command, stdout=subprocess.PIPE)
        assert reader.stdout.read(5) == b"ready"
        return reader

    reader = start_reader()
    writers = [
        start([sys.executable, "-c", NUMBERS, str(n), str(stop)], pipe.env(), stdout=-1, stderr=-1)
        for n in range(4)
    ]
    seen, thrown_away = tmpdir.join("seen"), []
    for _ in range(size(5, 20)):
        length = seen.size()
        wait_until(lambda: seen.size() > length)
        reader.send_signal(signal.SIGUSR1)
        reader.wait()
        if anew:
            # The kernel throws away what is in a pipe that nobody holds; look at it first.
            for writer in writers:
                writer.send_signal(signal.SIGSTOP)
            for writer in writers:
                wait_until(lambda: " T " in open("/proc/%d/stat" % writer.pid).read())
            pipe.open()
            thrown_away.append(pipe.read())
            pipe.close()
            os.unlink(pipe.path)
            os.mkfifo(pipe.path)
            for writer in writers:
                writer.send_signal(signal.SIGCONT)
        reader = start_reader()
    stop.write("")
    expected = set()
    for index, writer in enumerate(writers):
        result = finish(writer)
        assert (result.code, result.err) == (0, "")
        expected |= {("writer%d.%d" % (index, n), n) for n in range(int(result.out))}
    pipe.open()
    wait_until(lambda: not select.select([pipe.descriptor], [], [], 0)[0])
    reader.kill()
    reader.wait()
    rest = pipe.read()
    pipe.close()
    # The number of blocks in the hands of dead readers is known, and so is each line in them.
    in_hands = tmpdir.join("hands").read()
    arrived = metrics_of((seen.read() + rest).splitlines(True))
    lost = metrics_of((in_hands + "".join(thrown_away)).splitlines(True))
    assert len(arrived) == len(set(arrived)), "some came twice"
    assert set(arrived) | set(lost) == expected
    assert not set(arrived) & set(lost)


def test_the_reader_stops_and_goes_on(tmpdir):
    pipe = Pipe(str(tmpdir.join("pipe")))
    command = [sys.executable, "-c", MORTAL_READER, pipe.path, str(tmpdir)]
    reader = start(command, stdout=subprocess.PIPE)
    assert reader.stdout.read(5) == b"ready"
    reader.send_signal(signal.SIGSTOP)
    sink = Fifo(pipe.path, 0.2, 0.01)
    sent = 0
    with pytest.raises(FifoNotReadInTimeError):
        while True:
            sink.write(['{"%s": %d}\n' % ("x" * 1000, sent)])
            sent += 1
    reader.send_signal(signal.SIGCONT)
    Fifo(pipe.path, WAIT, 0.01).write(['{"%s": %d}\n' % ("x" * 1000, sent)])
    last = '": %d}\n' % sent
    wait_until(lambda: tmpdir.join("seen").read().endswith(last))
    values = [value for _, value in metrics_of(tmpdir.join("seen").read().splitlines(True))]
    reader.kill()
    reader.wait()
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
def test_threads_and_forks_in_the_middle(mode, pipe):
    if mode == "fifo":
        reader = Reader(pipe)
        result = run_python(FORKS, env=pipe.env())
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


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_a_hostile_stream_takes_little_memory_and_costs_no_good_record(name):
    blocks, small, full = STREAMS[name]
    rounds = size(small, full)
    process = start([BAI_EMIT], stdin=-1, stdout=-1, stderr=-1)
    good = []
    readers = [
        threading.Thread(target=lambda: good.append(sum(line == GOOD for line in process.stdout))),
        threading.Thread(target=lambda: [None for line in process.stderr]),
    ]
    for reader in readers:
        reader.start()
    for index in range(rounds):
        for block in blocks or [('{"name%d": %d}\n' % (index, index)).encode()]:
            process.stdin.write(block)
    process.stdin.write(b"\n" + GOOD)
    process.stdin.flush()
    with open("/proc/%d/status" % process.pid) as file:
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", file.read())
    process.stdin.close()
    for reader in readers:
        reader.join()
    assert int(peak) < 64 * 1024
    assert good == [1 + rounds * (blocks or []).count(GOOD)]
    assert process.wait() == (0 if blocks is None else 2)


def test_a_stream_that_never_ends_is_published_as_it_comes():
    process = start(["sh", "-c", 'yes a=1 | "$0"', BAI_EMIT], stdout=-1, preexec_fn=os.setsid)
    for _ in range(size(100000, 2000000)):
        assert process.stdout.readline() == b'{"a": 1}\n'
    os.killpg(process.pid, signal.SIGTERM)
    process.stdout.close()
    process.wait()
