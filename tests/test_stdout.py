"""stdout mode, mostly in processes that have a real stdout."""

import errno
import fcntl
import gzip
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import tty

import pytest

import benchmarkai
from benchmarkai._compat import PY2
from tests.helpers import (
    FULL,
    NOT_MEASURED,
    bounded,
    finish,
    kill,
    run,
    run_python,
    start,
    wait_until,
)

LINE = '{"a": 0.5}\n'
PIPES = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.fixture
def no_sink_yet(monkeypatch):
    monkeypatch.setattr(benchmarkai, "_sinks", [])


def test_the_line_goes_to_stdout_and_nothing_to_stderr():
    assert run_python("import benchmarkai; benchmarkai.emit({'a': 0.5})") == (0, LINE, "")


def read_blocks(descriptor):
    """Return what each read() returns until the end of the file."""
    return bounded(lambda: list(iter(lambda: os.read(descriptor, 1 << 16), b"")))


def test_each_line_is_one_write():
    reader, writer = os.pipe()
    # With O_DIRECT, each read() from a pipe returns what one write() wrote (Linux, fcntl.h).
    fcntl.fcntl(writer, fcntl.F_SETFL, fcntl.fcntl(writer, fcntl.F_GETFL) | 0o40000)
    code = (
        "import sys; from benchmarkai import emit; sys.stdout.write('x' * 8000);"
        "emit(dict.fromkeys(map('name{0}'.format, range(150)), 1)); emit({'a': 1})"
    )
    process = start([sys.executable, "-c", code], stdout=writer)
    os.close(writer)
    writes = read_blocks(reader)
    os.close(reader)
    assert finish(process).code == 0
    assert [data.count(b"\n") for data in writes if b"x" not in data] == [1, 1]
    assert b"".join(writes).startswith(b"x" * 8000 + b"{")


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_nothing_is_lost_when_the_process_exits_at_once(flags):
    code = "import os; from benchmarkai import emit; emit({'a': 0.5}); os._exit(3)"
    assert run([sys.executable] + flags + ["-c", code]) == (3, LINE, "")


def test_a_fork_duplicates_nothing():
    result = run_python(
        "import os; from benchmarkai import emit\n"
        "emit({'a': 0.5})\n"
        "if os.fork(): os.wait()\n"
        "else: emit({'child': 1})\n"
    )
    assert result.out == LINE + '{"child": 1}\n'


def test_metrics_and_other_output_keep_their_order():
    result = run_python(
        "import os; from benchmarkai import emit\n"
        "print('one'); emit({'a': 0.5}); print('two'); emit({'a': 0.5})\n"
        "os.system('echo three')\n"
    )
    assert result.out == "one\n" + LINE + "two\n" + LINE + "three\n"


@pytest.mark.usefixtures("no_sink_yet")
def test_each_line_goes_to_the_sys_stdout_of_the_moment(monkeypatch):
    streams = [io.BytesIO() if PY2 else io.StringIO() for _ in range(3)]
    for stream in streams:
        monkeypatch.setattr(sys, "stdout", stream)
        benchmarkai.emit({"a": 0.5})
    assert [stream.getvalue() for stream in streams] == [LINE] * 3


@pytest.mark.usefixtures("no_sink_yet")
def test_a_compressed_stdout_is_complete(tmpdir, monkeypatch):
    path = str(tmpdir.join("out.gz"))
    with gzip.open(path, "wb" if PY2 else "wt") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        stream.write("before\n")
        benchmarkai.emit({"a": 0.5})
        stream.write("after\n")
    with gzip.open(path) as stream:
        assert stream.read().decode() == "before\n" + LINE + "after\n"


@pytest.mark.usefixtures("no_sink_yet")
def test_pytest_captures_the_line(capsys):
    benchmarkai.emit({"a": 0.5})
    assert capsys.readouterr().out == LINE


@pytest.mark.skipif(PY2, reason="Python 2 has bytes in sys.stdout")
def test_an_encoding_that_is_not_compatible_with_ascii_is_respected():
    result = run_python(
        "import benchmarkai; benchmarkai.emit({'a': 0.5}); benchmarkai.emit({'b': 1})",
        env={"PYTHONIOENCODING": "utf-16-le"},
        stderr=subprocess.STDOUT,
    )
    assert result.out.replace("\0", "") == LINE + '{"b": 1}\n'
    assert "\0" in result.out


CATCH = """
import os, sys
from benchmarkai import emit
try:
    %s
    emit({'a': 0.5})
except (OSError, IOError) as error:
    os.write(2, ("%%s %%s" %% (error.errno, error)).encode())
"""


@pytest.mark.parametrize("flags", [[], ["-u"]])
@pytest.mark.parametrize(
    "before, error",
    [
        ("os.dup2(os.open('/dev/full', os.O_WRONLY), 1)", errno.ENOSPC),
        ("os.close(1)", errno.EBADF),
        ("sys.stdout.close()", errno.EBADF),
        ("sys.stdout = None", errno.EBADF),
        ("reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)", errno.EPIPE),
        ("emit({'a': 1}); sys.stdout.close()", errno.EBADF),
    ],
)
def test_a_failed_write_is_an_oserror_and_leaves_nothing_in_a_buffer(before, error, flags):
    result = run([sys.executable] + flags + ["-c", CATCH % before])
    assert result.code == 0
    assert result.err.startswith("%d [Errno %d] cannot write to stdout: " % (error, error))
    assert result.err.count("\n") == 0


@pytest.mark.skipif(PY2, reason="files of Python 2 have no detach()")
def test_a_detached_stdout_is_closed():
    code = CATCH % "sys.stdout.detach()" + "sys.stdout = sys.__stdout__ = None"
    result = run_python(code)
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("%d [Errno " % errno.EBADF)


def test_after_an_error_the_next_call_works_and_nothing_is_written_twice():
    result = run_python(
        "import os; from benchmarkai import emit\n"
        "good = os.dup(1); os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
        "for _ in range(3):\n"
        "    try: emit({'lost': 1})\n"
        "    except (IOError, OSError): pass\n"
        "os.dup2(good, 1); emit({'a': 0.5})\n"
    )
    assert result == (0, LINE, "")


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_a_non_blocking_stdout_receives_everything(flags):
    reader, writer = os.pipe()
    code = (
        "import fcntl, os; from benchmarkai import emit\n"
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK)\n"
        "os.write(2, b'go'); print('x' * 5000)\n"
        "for index in range(20): emit(dict.fromkeys(map('name{0}'.format, range(1000)), index))\n"
    )
    process = start([sys.executable] + flags + ["-c", code], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert bounded(lambda: process.stderr.read(2)) == b"go"
    first, lines = b"".join(read_blocks(reader)).decode().split("\n", 1)
    os.close(reader)
    assert first == "x" * 5000
    assert finish(process).code == 0
    assert [set(json.loads(line).values()) for line in lines.splitlines()] == [
        {n} for n in range(20)
    ]


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_signals_do_not_tear_lines(flags):
    code = (
        "import signal, sys; from benchmarkai import emit\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "for index in range(30): emit(dict.fromkeys(map('name{0}'.format, range(10000)), index))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    process = start([sys.executable] + flags + ["-c", code], stdout=subprocess.PIPE)
    # The lines are longer than the pipe holds, and parsing takes time, so that signals arrive in
    # the middle of a write.
    lines = bounded(lambda: [json.loads(line.decode()) for line in process.stdout])
    assert finish(process).code == 0
    assert [(len(line), set(line.values())) for line in lines] == [
        (10000, {index}) for index in range(30)
    ]


def test_threads_do_not_tear_lines():
    code = (
        "import threading; from benchmarkai import emit\n"
        "def work(number):\n"
        "    for index in range(200): emit({'%d.%d' % (number, index): index})\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
    )
    result = run_python(code)
    names = [name for line in result.out.splitlines() for name in json.loads(line)]
    assert sorted(names) == sorted("%d.%d" % (n, i) for n in range(16) for i in range(200))


def test_ctrl_c_interrupts_a_write_that_nobody_reads():
    code = (
        "from benchmarkai import emit\n"
        "while True: emit(dict.fromkeys(map('name{0}'.format, range(1000)), 1))\n"
    )
    process = start([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    bounded(lambda: process.stdout.read(1))
    process.send_signal(signal.SIGINT)
    wait_until(lambda: process.poll() is not None)
    assert "KeyboardInterrupt" in finish(process).err


@pytest.mark.skipif(PY2, reason="Python 2 has no redirect_stdout()")
def test_a_thread_that_replaces_stdout_disturbs_no_other():
    code = (
        "import contextlib, io, sys, threading, time; from benchmarkai import emit\n"
        "sys.setswitchinterval(1e-6)\n"
        "done = threading.Event()\n"
        "def redirect():\n"
        "    while not done.is_set():\n"
        "        with contextlib.redirect_stdout(io.StringIO()): print('hidden'); emit({'b': 1})\n"
        "        time.sleep(0.0001)\n"
        "thread = threading.Thread(target=redirect); thread.start()\n"
        "try:\n"
        "    for index in range(%d): print('text'); emit({'a': index})\n"
        "finally: done.set(); thread.join()\n"
    )
    result = run_python(code % (50000 if FULL else 3000))
    assert (result.code, result.err) == (0, "")
    # What is emitted while stdout is redirected goes there, as what is printed does.
    lines = [line for line in result.out.splitlines() if line not in ("text", "hidden", "")]
    assert lines and all(re.match(r'\{"[ab]": \d+\}$', line) for line in lines)


CLOSE_STDOUT = """
import sys, threading, time
from benchmarkai import emit

getattr(sys, "setswitchinterval", lambda _: sys.setcheckinterval(1))(1e-6)
stdout, done, wrong = sys.stdout, threading.Event(), []

def replace():
    for _ in range(int(sys.argv[1])):
        stream = open("log", "a")
        sys.stdout = stream
        time.sleep(0.00001)
        sys.stdout = stdout
        while not stream.closed:
            try:
                stream.close()
            except IOError:  # Python 2, while another thread flushes it
                pass
        with open("data", "w") as data:  # gets the number of the descriptor
            time.sleep(0.00001)
            data.write("data")
        content = open("data").read()
        if content != "data":
            wrong.append(content)
    done.set()

threading.Thread(target=replace).start()
count = 0
while not done.is_set():
    emit({"a": count})
    count += 1
sys.stderr.write("%d %s" % (count, "".join(wrong)))
"""


def test_no_line_is_lost_or_in_another_file_when_a_thread_closes_its_stdout(tmpdir):
    out, log = tmpdir.join("out"), tmpdir.join("log")
    with out.open("w") as stdout:
        swaps = str(1000 if FULL else 200)
        result = run_python(CLOSE_STDOUT, swaps, cwd=str(tmpdir), stdout=stdout.fileno())
    count, wrong = result.err.split(" ", 1)
    assert (result.code, wrong) == (0, "")
    lines = out.read().splitlines() + log.read().splitlines()
    assert sorted(json.loads(line)["a"] for line in lines) == list(range(int(count)))


LIMIT = (
    "import resource, signal; from benchmarkai import emit\n"
    "def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
)


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_a_line_after_one_that_was_cut_starts_on_a_new_line(tmpdir, flags):
    code = LIMIT + (
        "limit(10)\n"
        "try: emit({'resnet.loss': 0.5})\n"
        "except (IOError, OSError) as error: assert error.written == 10\n"
        "limit(resource.RLIM_INFINITY); emit({'a': 0.5}); emit({'b': 1})\n"
    )
    with open(str(tmpdir.join("out")), "w") as stdout:
        result = run([sys.executable] + flags + ["-c", code], stdout=stdout.fileno())
    assert (result.code, result.err) == (0, "")
    assert tmpdir.join("out").read() == '{"resnet.l\n' + LINE + '{"b": 1}\n'


def test_a_line_after_an_interrupted_one_starts_on_a_new_line():
    code = (
        "import os, signal, sys, time; from benchmarkai import emit\n"
        "signal.signal(signal.SIGALRM, lambda *_: 1 // 0)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.3)\n"
        "try: emit(dict.fromkeys(map('name{0}'.format, range(10000)), 1))\n"
        "except ZeroDivisionError: os.write(2, b'cut')\n"
        "emit({'a': 0.5})\n"
    )
    process = start([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert bounded(lambda: process.stderr.read(3)) == b"cut"
    result = finish(process)
    assert result.code == 0
    cut, line = result.out.splitlines()
    assert cut.startswith('{"name') and not cut.endswith("}")
    assert line + "\n" == LINE


@pytest.mark.skipif(PY2, reason="on Python 2 write() of a file cannot be replaced")
def test_what_a_program_has_put_in_place_of_write_sees_the_lines():
    result = run_python(
        "import sys; from benchmarkai import emit\n"
        "emit({'before': 1})\n"
        "write, seen = sys.stdout.write, []\n"
        "sys.stdout.write = lambda text: (seen.append(text), write(text))\n"
        "emit({'a': 0.5}); print('text')\n"
        "sys.stderr.write(''.join(seen))\n"
    )
    assert result == (0, '{"before": 1}\n' + LINE + "text\n", LINE + "text\n")


# Each time the program prints more than its buffer holds, but less than makes print() itself lose
# text: TextIOWrapper holds 8 KiB of its own.
LINES = 30 if PY2 else 60
PRINT_AND_EMIT = (
    "import fcntl, os; from benchmarkai import emit\n"
    "fcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL) | os.O_NONBLOCK)\n"
    "for index in range(%d):\n"
    "    for line in range(%d): print('%%d text %%d %%s' %% (index, line, 'x' * 100))\n"
    "    emit({'a': index})\n"
)


def test_nothing_that_was_printed_to_a_non_blocking_stdout_is_lost():
    count = 10000 if FULL else 300
    process = start([sys.executable, "-c", PRINT_AND_EMIT % (count, LINES)], stdout=subprocess.PIPE)
    data = bounded(lambda: read_slowly(process.stdout.fileno()))
    assert finish(process).code == 0
    expected = []
    for index in range(count):
        expected += ["%d text %d %s" % (index, line, "x" * 100) for line in range(LINES)]
        expected.append('{"a": %d}' % index)
    assert data.decode().splitlines() == expected


def read_slowly(descriptor):
    """Read in small pieces, each only after the pipe has been full for a moment."""
    parts = []
    while True:
        time.sleep(0.0001)
        parts.append(os.read(descriptor, 5000))
        if not parts[-1]:
            return b"".join(parts)


@pytest.mark.skipif(PY2, reason="Python 2 has bytes in sys.stdout")
def test_an_encoding_that_changes_is_respected():
    result = run_python(
        "import sys; from benchmarkai import emit\n"
        "emit({'a': 0.5}); change = getattr(sys.stdout, 'reconfigure', None)\n"
        "if change: change(encoding='utf-16-le')\n"
        "emit({'b': 1}); sys.exit(0 if change else 3)\n"
    )
    if result.code == 3:
        pytest.skip("Python 3.6 and older have no reconfigure()")
    assert result == (0, LINE + "".join(c + "\0" for c in '{"b": 1}\n'), "")


@pytest.mark.usefixtures("no_sink_yet")
def test_a_stream_needs_nothing_but_write(monkeypatch):
    class Stream(object):
        text = ""

        def write(self, text):
            self.text += text

    monkeypatch.setattr(sys, "stdout", Stream())
    benchmarkai.emit({"a": 0.5})
    benchmarkai.emit({"a": 0.5})
    assert sys.stdout.text == LINE * 2


PRINT_AMID_SIGNALS = """
import itertools, os, signal, sys
from benchmarkai import emit

ticks = itertools.count()

def handler(number, frame):  # another one may interrupt it, but not in the middle of next()
    tick = next(ticks)
    emit({"tick": tick})

signal.signal(signal.SIGALRM, handler)
# Python 2 loses what it prints when a signal interrupts it.
if sys.version_info[0] == 2: signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for index in range(int(sys.argv[1])):
    sys.stdout.write("x" * 999 + "\\n")
    emit({"a": index})
signal.setitimer(signal.ITIMER_REAL, 0)
os.write(2, str(next(ticks)).encode())
"""


THREAD = "import threading; threading.Timer(0, threading.Event().wait, [60]).start()\n"


@pytest.mark.parametrize("flags, before", [([], ""), (["-u"], ""), ([], THREAD)])
def test_a_signal_handler_may_emit_while_the_program_prints(flags, before):
    prints = 20000 if FULL else 2000
    code = before + PRINT_AMID_SIGNALS + ("os._exit(0)" if before else "")
    process = start(
        [sys.executable] + flags + ["-c", code, str(prints)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    data = bounded(lambda: read_slowly(process.stdout.fileno())).decode()
    result = finish(process)
    assert (result.code, result.err.isdigit()) == (0, True), result.err
    assert data.count("x") == prints * 999
    lines = [json.loads(line) for line in data.splitlines() if "{" in line]
    assert [line["a"] for line in lines if "a" in line] == list(range(prints))
    ticks = sorted(line["tick"] for line in lines if "tick" in line)
    assert ticks == list(range(int(result.err))) and len(ticks) > 5


@pytest.mark.skipif(PY2, reason="Python 2 calls a handler between two operations only")
def test_a_signal_handler_that_cannot_emit_is_told_what_to_do():
    # In this encoding the line has to go through the stream, which is busy.
    code = PRINT_AMID_SIGNALS.replace(
        'emit({"tick": tick})',
        "try: emit({'tick': tick})\n    except OSError as error: os._exit(print_error(error))",
    ).replace(
        "def handler",
        "def print_error(error): os.write(2, str(error).encode())\n\ndef handler",
    )
    process = start(
        [sys.executable, "-c", code, "100000"],
        env={"PYTHONIOENCODING": "utf-16-le"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert b"call emit() after the handler" in bounded(process.stderr.read)
    kill(process)


# Its second signal comes while C makes the text of the error that the first handler gets.
EMIT_AMID_ERROR = """
import os, signal, sys
from benchmarkai import emit

for _ in range(int(sys.argv[1])):
    emit({"before": 0})
signals = [signal.SIGUSR1, signal.SIGUSR2]
for each in signals:
    signal.signal(each, lambda number, frame: emit({"handler": signals.index(number)}))

class Name(object):
    def __repr__(self):
        global is_sent
        if not is_sent:
            is_sent = True
            os.kill(os.getpid(), signals[1])
        return "name"

is_sent = False
sys.stdout.buffer.raw.name = Name()
print("x" * 200000)
"""


@pytest.mark.skipif(PY2, reason="Python 2 calls a handler between two operations only")
@pytest.mark.parametrize("emits_before", ["0", "1"])
def test_a_signal_handler_may_emit_while_another_finds_the_stream_busy(emits_before):
    process = start(
        [sys.executable, "-c", EMIT_AMID_ERROR, emits_before],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    data = b""
    while b"x" not in data:
        data += bounded(lambda: os.read(process.stdout.fileno(), 100))
    process.send_signal(signal.SIGUSR1)
    result = finish(process)
    assert (result.code, result.err) == (0, "")
    assert (data.decode() + result.out).count("x") == 200000
    assert re.findall(r"^{.*}$", result.out, re.M) == ['{"handler": 1}', '{"handler": 0}']


# Its emit() waits for a reader, after text that the program has printed.
RAISE_AMID_FLUSH = """
import os, signal, sys
from benchmarkai import emit

def handler(number, frame):
    if frame.f_code.co_name == "_write":
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise RuntimeError(sys.argv[1])

signal.signal(signal.SIGALRM, handler)
emit({"a": 1})
os.write(1, b"x" * (65536 - len('{"a": 1}\\n')))
sys.stdout.write("y")
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
try:
    emit({"b": 2})
except RuntimeError as error:
    os.write(2, str(error.args).encode() + b"\\n")
"""


@pytest.mark.skipif(PY2, reason="Python 2 calls a handler between two operations only")
@pytest.mark.parametrize("text", ["", "stop"])
def test_an_error_that_a_signal_handler_raises_reaches_the_program(text):
    process = start(
        [sys.executable, "-c", RAISE_AMID_FLUSH, text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert bounded(process.stderr.readline).decode() == "(%r,)\n" % text
    result = finish(process)
    assert (result.code, result.err) == (0, "")
    assert result.out.replace("x", "") == '{"a": 1}\ny'


RAISE_AMID_EMIT = """
import os, signal
from benchmarkai import emit

class Timeout(Exception):
    pass

def handler(number, frame):
    raise Timeout

signal.signal(signal.SIGALRM, handler)
emit({"a": 0})
descriptors = len(os.listdir("/proc/self/fd"))
raised = 0
for index in range(3000):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00002 + index % 40 * 0.0000005)
            emit({"a": index})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Timeout:
        raised += 1
os.write(2, str((raised > 0, len(os.listdir("/proc/self/fd")) - descriptors)).encode())
"""


@pytest.mark.parametrize("replace", ["", "sys.stdout = os.fdopen(os.dup(1), 'w')"])
def test_a_signal_handler_that_raises_leaves_whole_lines_and_no_descriptor(replace):
    code = RAISE_AMID_EMIT.replace("class Timeout", "import sys; %s\n\nclass Timeout" % replace)
    result = run_python(code, env=NOT_MEASURED)
    assert (result.code, result.err) == (0, "(True, 0)")
    assert all(re.match(r'\{"a": \d+\}$', line) for line in result.out.splitlines())


EMIT_AMID_EMIT = """
import os, signal, sys
from benchmarkai import emit

told = ticks = 0

def handler(number, frame):
    global told, ticks
    try: emit({"tick": 1})
    except (OSError, IOError) as error:
        if "call emit() after the handler" not in str(error): raise
        told += 1
    else: ticks += 1

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for index in range(int(sys.argv[1])): emit(dict(("name%d" % n, index) for n in range(20)))
signal.setitimer(signal.ITIMER_REAL, 0)
os.write(2, ("%d %d" % (told, ticks)).encode())
"""


def test_a_signal_handler_does_not_tear_the_line_of_an_emit_to_a_terminal():
    master, slave = pty.openpty()
    tty.setraw(slave)
    process = start(
        [sys.executable, "-c", EMIT_AMID_EMIT, "500"], stdout=slave, stderr=subprocess.PIPE
    )
    os.close(slave)
    data = bounded(lambda: read_terminal_slowly(master)).decode()
    os.close(master)
    result = finish(process)
    assert result.code == 0, result.err
    told, ticks = map(int, result.err.split())
    lines = [json.loads(line) for line in data.splitlines() if line]
    assert [line["name0"] for line in lines if "name0" in line] == list(range(500))
    assert len([line for line in lines if "tick" in line]) == ticks
    assert told + ticks > 5


def read_terminal_slowly(descriptor):
    parts = []
    try:
        while not parts or parts[-1]:
            time.sleep(0.0003)
            parts.append(os.read(descriptor, 3000))
    except EnvironmentError as error:
        if error.errno != errno.EIO:  # no process has the terminal open any more
            raise
    return b"".join(parts)


def test_each_file_with_a_line_that_was_cut_gets_a_new_line(tmpdir):
    code = LIMIT + (
        "import os, sys\n"
        "def cut():\n"
        "    limit(10)\n"
        "    try: emit({'resnet.loss': 0.5})\n"
        "    except EnvironmentError: limit(resource.RLIM_INFINITY)\n"
        "first, second, third = open('first', 'w'), open('second', 'w'), open('third', 'w')\n"
        "for sys.stdout in first, second, third: cut()\n"
        "third = os.fdopen(os.dup(third.fileno()), 'w')\n"
        "for sys.stdout in first, second, third, first: emit({'a': 0.5})\n"
    )
    assert run_python(code, cwd=str(tmpdir)) == (0, "", "")
    cut = '{"resnet.l\n' + LINE
    assert tmpdir.join("first").read() == cut + LINE
    assert tmpdir.join("second").read() == tmpdir.join("third").read() == cut


@pytest.mark.skipif(PY2, reason="this is about the classes of Python 3")
def test_a_line_is_not_written_twice_if_a_thread_closes_its_stream_after_the_write(tmpdir):
    code = (
        "import io, sys, threading; from benchmarkai import emit\n"
        "stdout = sys.stdout\n"
        "class Log(io.TextIOWrapper):\n"
        "    def write(self, text):\n"
        "        super().write(text)\n"
        "        thread = threading.Thread(target=close); thread.start(); thread.join()\n"
        "def close(): sys.stdout = stdout; log.close()\n"
        "log = sys.stdout = Log(open(%r, 'wb')); emit({'a': 0.5})\n"
    )
    assert run_python(code % str(tmpdir.join("log"))) == (0, "", "")
    assert tmpdir.join("log").read() == LINE


@pytest.mark.skipif(PY2, reason="on Python 2 the methods of a file cannot be replaced")
@pytest.mark.parametrize(
    "replace",
    [
        "buffer = sys.stdout.buffer; write = buffer.write\n"
        "buffer.write = lambda data: seen.append(bytes(data).decode()) or write(data)",
        "class Tee(io.BufferedWriter):\n"
        "    def write(self, data): seen.append(bytes(data).decode()); return super().write(data)\n"
        "sys.stdout = io.TextIOWrapper(Tee(sys.stdout.buffer.raw))",
        "class FileIO(io.FileIO):\n"
        "    def write(self, data): seen.append(bytes(data).decode()); return super().write(data)\n"
        "sys.stdout = io.TextIOWrapper(io.BufferedWriter(FileIO(1, 'w', closefd=False)))",
    ],
)
def test_what_stands_in_for_a_part_of_stdout_sees_the_lines(replace):
    result = run_python(
        "import io, sys; from benchmarkai import emit\nseen = []\n" + replace + "\n"
        "emit({'a': 0.5}); sys.stderr.write(''.join(seen))"
    )
    assert result == (0, LINE, LINE)


@pytest.mark.skipif(PY2, reason="Python 2 itself loses text on a non-blocking file")
@pytest.mark.parametrize(
    "replace",
    ["write = sys.stdout.write; sys.stdout.write = lambda text: write(text)", "encoding"],
)
def test_nothing_is_lost_on_a_non_blocking_stdout_that_needs_its_own_methods(replace):
    env = {"PYTHONIOENCODING": "cp1252"} if replace == "encoding" else {}
    code = "import sys\n%s\n" % ("" if env else replace) + PRINT_AND_EMIT % (300, LINES)
    process = start([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE)
    data = bounded(lambda: read_slowly(process.stdout.fileno()))
    assert finish(process).code == 0
    lines = data.decode().splitlines()
    assert len(lines) == len(set(lines)) == 300 * (LINES + 1)


def test_a_stream_that_has_waited_ends_with_its_last_reference():
    reader, writer = os.pipe()
    code = (
        "import fcntl, gc, os, sys; from benchmarkai import emit\n"
        "gc.disable(); stdout = sys.stdout; file = os.fdopen(%d, 'w')\n"
        "fcntl.fcntl(file, fcntl.F_SETFL, os.O_NONBLOCK)\n"
        "sys.stdout = file; emit({'a': 0.5}); sys.stdout.write('last')\n"
        "sys.stdout = stdout; del file; emit({'a': 0.5}); sys.stdin.read()\n"
    )
    options = PIPES if PY2 else dict(PIPES, pass_fds=[writer])
    process = start([sys.executable, "-c", code % writer], **options)
    os.close(writer)
    assert bounded(process.stdout.readline) == LINE.encode()
    assert bounded(lambda: os.read(reader, 100) + os.read(reader, 100)) == LINE.encode() + b"last"
    os.close(reader)
    assert finish(process).code == 0


@pytest.mark.usefixtures("no_sink_yet")
@pytest.mark.parametrize("closed", [lambda: False, object(), 1])
def test_only_a_true_closed_means_that_a_stream_is_closed(monkeypatch, closed):
    stream = io.BytesIO() if PY2 else io.StringIO()

    class Stream(object):
        write = stream.write

    Stream.closed = closed
    monkeypatch.setattr(sys, "stdout", Stream())
    benchmarkai.emit({"a": 0.5})
    assert stream.getvalue() == LINE


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16-le"])
def test_a_text_stream_of_the_module_io_takes_the_line(encoding):
    result = run_python(
        "import io, sys; from benchmarkai import emit\n"
        "sys.stdout = io.open(1, 'w', encoding=%r, closefd=False)\n"
        "emit({'a': 0.5}); emit({'a': 0.5})\n"
        "sys.stdout = io.StringIO(); emit({'a': 0.5})\n" % encoding
    )
    assert (result.code, result.err, result.out.replace("\0", "")) == (0, "", LINE * 2)
