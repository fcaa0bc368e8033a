"""stdout mode, mostly in processes that have a real stdout."""

import errno
import fcntl
import gzip
import io
import json
import os
import signal
import subprocess
import sys

import pytest

import benchmarkai
from benchmarkai import emitter
from benchmarkai._compat import PY2
from tests.helpers import bounded, finish, run, run_python, start, wait_until

LINE = '{"a": 0.5}\n'


@pytest.fixture
def no_sink_yet(monkeypatch):
    monkeypatch.setattr(emitter, "_sinks", [])


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
