"""FIFO mode: real pipes, and readers that come late, go, stop, and come back."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from conftest import WAIT, Pipe, finish, run_python, start, wait_until

from benchmarkai import (
    FifoError,
    FifoNotCreatedInTimeError,
    FifoNotReadInTimeError,
    NotAFifoError,
)
from benchmarkai.fifo import LONGEST, Fifo

EMIT = "from benchmarkai import emit; emit({'a': 0.5})"
LINE = '{"a": 0.5}\n'


def sink(path, max_wait=WAIT, step=0.01, notify=None):
    return Fifo(str(path), max_wait, step, notify)


def later(action):
    thread = threading.Timer(0.1, action)
    thread.start()
    return thread


def test_a_line_goes_into_the_pipe_and_nothing_to_stdout_or_stderr(pipe):
    result = run_python(EMIT, env=pipe.env())
    assert (result.code, result.out, result.err) == (0, "", "")
    assert pipe.read() == LINE


def test_the_errors_are_fifo_errors():
    for kind in (FifoNotCreatedInTimeError, FifoNotReadInTimeError, NotAFifoError):
        assert issubclass(kind, FifoError)


def test_no_pipe_for_the_whole_wait(tmpdir):
    path = tmpdir.join("none")
    with pytest.raises(FifoNotCreatedInTimeError) as caught:
        sink(path, max_wait=0.05).write([LINE])
    assert str(path) in str(caught.value)
    assert re.search(r" after 0\.\d+ s: ", str(caught.value))
    assert "start the daemon" in str(caught.value)
    assert not path.check()


def test_the_error_comes_without_a_second_traceback(tmpdir):
    result = run_python(
        EMIT, env={"BENCHMARK_AI": "fifo", "BENCHMARK_AI_FIFO_FILEPATH": "/dev/null"}
    )
    assert result.err.count("Traceback") == 1 and "NotAFifoError" in result.err
    with open("/dev/full", "w") as full:
        result = run_python(EMIT, stdout=full)
    assert result.err.count("Traceback") == 1 and "cannot write to stdout" in result.err


def test_a_wait_of_0_looks_once(tmpdir, pipe):
    sink(pipe.path, max_wait=0).write([LINE])
    assert pipe.read() == LINE
    with pytest.raises(FifoNotCreatedInTimeError):
        sink(tmpdir.join("none"), max_wait=0).write([LINE])


def test_a_pipe_that_comes_late_is_found(tmpdir):
    pipes = []

    def create():
        pipes.append(Pipe(str(tmpdir.join("late"))))
        pipes[0].open()

    thread = later(create)
    sink(tmpdir.join("late")).write([LINE])
    thread.join()
    assert pipes[0].read() == LINE
    pipes[0].close()


def test_nobody_reads_for_the_whole_wait(tmpdir):
    pipe = Pipe(str(tmpdir.join("unread")))
    with pytest.raises(FifoNotReadInTimeError) as caught:
        sink(pipe.path, max_wait=0.05).write([LINE])
    assert "nobody reads the pipe %r after 0." % pipe.path in str(caught.value)


def test_a_reader_that_comes_late_is_waited_for(tmpdir):
    pipe = Pipe(str(tmpdir.join("late")))
    thread = later(pipe.open)
    sink(pipe.path).write([LINE])
    thread.join()
    assert pipe.read() == LINE
    pipe.close()


def test_a_pipe_that_stays_full_is_an_error_and_then_works_again(pipe):
    out = sink(pipe.path, max_wait=0.1)
    out.write([LINE])
    size = pipe.fill()
    with pytest.raises(FifoNotReadInTimeError) as caught:
        out.write([LINE])
    assert "full pipe %r after 0." % pipe.path in str(caught.value)
    assert pipe.read() == LINE + "\n" * size
    out.write([LINE])
    assert pipe.read() == LINE


def test_a_full_pipe_is_waited_for(pipe):
    size = pipe.fill()
    read = []
    thread = later(lambda: read.append(pipe.read()))
    sink(pipe.path).write([LINE])
    thread.join()
    assert "".join(read) + pipe.read() == "\n" * size + LINE


def test_the_reader_comes_back(pipe):
    out = sink(pipe.path)
    out.write([LINE])
    pipe.close()
    pipe.open()
    out.write([LINE])
    # What the first reader left is still there, because the emitter holds the pipe open.
    assert pipe.read() == LINE * 2


def test_the_pipe_is_made_anew(pipe):
    out = sink(pipe.path)
    out.write([LINE])
    pipe.close()
    os.unlink(pipe.path)
    other = Pipe(pipe.path)
    other.open()
    out.write([LINE])
    assert other.read() == LINE
    other.close()


def test_after_an_error_a_pipe_that_was_made_anew_is_found(pipe):
    out = sink(pipe.path, max_wait=0.05)
    out.write([LINE])
    pipe.fill()
    with pytest.raises(FifoNotReadInTimeError):
        out.write([LINE])
    os.unlink(pipe.path)  # while the reader of the old one still holds it, and does not read
    other = Pipe(pipe.path)
    other.open()
    out.write([LINE])
    assert other.read() == LINE
    other.close()


@pytest.mark.parametrize("max_wait, step", [(1e300, 1e300), (2592000, 1e12)])
def test_the_longest_waits_are_possible(max_wait, step, pipe):
    pipe.fill()
    thread = later(pipe.read)
    sink(pipe.path, max_wait=max_wait, step=step).write([LINE])
    thread.join()
    # A step that the system would refuse; a signal ends the sleep.
    code = (
        "import signal; signal.signal(signal.SIGALRM, lambda *_: 1 // 0); signal.alarm(1)\n"
        "from benchmarkai.fifo import Fifo; Fifo('/nonexistent', %r, %r).write(['x'])"
    )
    assert "ZeroDivisionError" in run_python(code % (max_wait, step)).err


def test_one_deadline_covers_a_reader_that_goes_and_a_pipe_that_is_gone(pipe):
    out = sink(pipe.path, max_wait=0.1)
    out.write([LINE])
    pipe.close()
    with pytest.raises(FifoNotReadInTimeError):
        out.write([LINE])
    os.unlink(pipe.path)
    with pytest.raises(FifoNotCreatedInTimeError):
        out.write([LINE])
    # After an error it starts afresh.
    other = Pipe(pipe.path)
    other.open()
    out.write([LINE])
    assert other.read() == LINE
    other.close()


def test_the_error_says_how_many_lines_had_been_written(pipe):
    out = sink(pipe.path, max_wait=0.1)
    long = "x" * (LONGEST - 1) + "\n"
    with pytest.raises(FifoNotReadInTimeError) as caught:
        out.write([long] * 100)
    written = pipe.read().count("\n")
    assert written > 0
    assert "(%d of the 100 lines of this call had been written)" % written in str(caught.value)


def test_what_is_no_pipe_is_left_as_it_is(tmpdir):
    secret = tmpdir.join("secret")
    secret.write("precious")
    link = tmpdir.join("link")
    link.mksymlinkto(secret)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmpdir.join("socket")))
    for path, kind in (
        (secret, "a regular file"),
        (link, "a regular file"),
        (tmpdir, "a directory"),
        (tmpdir.join("socket"), "a socket"),
        ("/dev/null", "a character device"),
    ):
        with pytest.raises(NotAFifoError) as caught:
            sink(path).write([LINE])
        assert "%r is %s" % (str(path), kind) in str(caught.value)
    listener.close()
    assert secret.read() == "precious"


def test_a_link_to_a_pipe_is_fine(pipe, tmpdir):
    tmpdir.join("link").mksymlinkto(pipe.path)
    sink(tmpdir.join("link")).write([LINE])
    assert pipe.read() == LINE


@pytest.mark.parametrize(
    "name, error",
    [("x" * 5000, errno.ENAMETOOLONG), ("file/pipe", errno.ENOTDIR), ("loop", errno.ELOOP)],
)
def test_a_path_that_the_system_refuses_is_an_error_at_once(tmpdir, name, error):
    tmpdir.join("file").write("")
    tmpdir.join("loop").mksymlinkto(tmpdir.join("loop"))
    with pytest.raises(FifoError) as caught:
        sink(tmpdir.join(name)).write([LINE])
    assert os.strerror(error) in str(caught.value)


def test_a_path_with_a_newline_is_shown_on_one_line(tmpdir):
    with pytest.raises(FifoNotCreatedInTimeError) as caught:
        sink(tmpdir.join("a\nb"), max_wait=0).write([LINE])
    assert "\n" not in str(caught.value)


def test_a_pipe_without_permission_is_an_error_at_once():
    directory = tempfile.mkdtemp()
    try:
        os.chmod(directory, 0o755)
        pipe = Pipe(os.path.join(directory, "private"))
        os.chmod(pipe.path, 0)
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                sink(pipe.path).write([LINE])
            except FifoError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.wait()
        assert b"Permission denied" in os.read(reader, 1 << 16)
        os.close(reader)
    finally:
        shutil.rmtree(directory)


def test_without_descriptors_it_fails_at_once_and_works_when_there_are_some(pipe):
    out = sink(pipe.path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with pytest.raises(EnvironmentError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(FifoError) as caught:
            out.write([LINE])
        assert os.strerror(errno.EMFILE) in str(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    out.write([LINE])
    assert pipe.read() == LINE


def test_a_program_that_closes_all_descriptors_is_survived(pipe):
    code = (
        "import os; from benchmarkai import emit\n"
        "emit({'a': 0.5}); os.closerange(3, 100); emit({'a': 0.5})\n"
    )
    assert run_python(code, env=pipe.env()).code == 0
    assert pipe.read() == LINE * 2


def test_a_file_opened_after_all_descriptors_were_closed_is_not_written_to(pipe, tmpdir):
    code = (
        "import os; from benchmarkai import emit\n"
        "emit({'a': 0.5}); os.closerange(3, 1000)\n"
        "files = [open(%r + str(n), 'w') for n in range(100)]\n"
        "emit({'a': 0.5})\n"
    ) % str(tmpdir.join("file"))
    assert run_python(code, env=pipe.env()).code == 0
    assert pipe.read() == LINE * 2
    assert not any(tmpdir.join("file%d" % n).size() for n in range(100))


def test_threads_that_come_first_together_open_the_pipe_once(pipe):
    code = (
        "import os, sys, threading; from benchmarkai import emit\n"
        "getattr(sys, 'setswitchinterval', lambda _: None)(1e-6)\n"
        "go = threading.Event()\n"
        "def work(): go.wait(); emit({'a': 0.5})\n"
        "threads = [threading.Thread(target=work) for _ in range(32)]\n"
        "for thread in threads: thread.start()\n"
        "go.set()\n"
        "for thread in threads: thread.join()\n"
        "paths = ['/proc/self/fd/' + name for name in os.listdir('/proc/self/fd')]\n"
        "print([os.path.realpath(path) for path in paths].count(%r))\n"
    ) % os.path.realpath(pipe.path)
    for _ in range(5):
        assert run_python(code, env=pipe.env()).out == "1\n"
        assert pipe.read() == LINE * 32


def test_the_descriptor_does_not_leak_into_child_programs(pipe):
    code = (
        "import os, subprocess, sys; from benchmarkai import emit\n"
        "emit({'a': 0.5})\n"
        "subprocess.call(['ls', '-l', '/proc/self/fd'], close_fds=False)\n"
    )
    result = run_python(code, env=pipe.env())
    assert result.code == 0 and pipe.path not in result.out
    # Nor when it has been opened again.
    reopen = (
        "import os, subprocess; from benchmarkai import emit\n"
        "reader = os.open(%r, os.O_RDONLY | os.O_NONBLOCK)\n"
        "emit({'a': 0.5}); os.close(reader)\n"
        "reader = os.open(%r, os.O_RDONLY | os.O_NONBLOCK)\n"
        "emit({'a': 0.5}); os.close(reader)\n"
        "subprocess.call(['ls', '-l', '/proc/self/fd'], close_fds=False)\n" % (pipe.path, pipe.path)
    )
    pipe.close()
    result = run_python(reopen, env=pipe.env())
    assert result.code == 0, result.err
    assert pipe.path not in result.out


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_goes_to_a_closed_standard_stream_does_not_go_into_the_pipe(pipe, number):
    code = (
        "import os; os.close(%d)\n"
        "from benchmarkai import emit; emit({'a': 0.5})\n"
        "try: os.write(%d, b'not a metric')\n"
        "except OSError: pass\n"
    ) % (number, number)
    run_python(code, env=pipe.env())
    assert pipe.read() == LINE


def test_threads_share_the_pipe(pipe):
    out = sink(pipe.path)
    count, threads = 500, 16
    texts = []
    done = threading.Event()

    def read():
        while not done.is_set():
            texts.append(pipe.read())
            done.wait(0.001)

    def work(number):
        for index in range(count):
            out.write(['{"%d.%d": 1}\n' % (number, index)])

    reader = threading.Thread(target=read)
    reader.start()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(WAIT)
    done.set()
    reader.join()
    texts.append(pipe.read())
    names = [name for line in "".join(texts).splitlines() for name in json.loads(line)]
    assert sorted(names) == sorted("%d.%d" % (n, i) for n in range(threads) for i in range(count))


def test_forked_processes_share_the_pipe(pipe):
    code = (
        "import os; from benchmarkai import emit\n"
        "emit({'before': 1})\n"
        "children = []\n"
        "for child in range(4):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        for index in range(100): emit({'%d.%d' % (child, index): 1})\n"
        "        os._exit(0)\n"
        "    children.append(pid)\n"
        "for pid in children: os.waitpid(pid, 0)\n"
        "emit({'after': 1})\n"
    )
    assert run_python(code, env=pipe.env()).code == 0
    names = [name for line in pipe.read().splitlines() for name in json.loads(line)]
    expected = ["%d.%d" % (child, index) for child in range(4) for index in range(100)]
    assert names[0] == "before" and names[-1] == "after"
    assert sorted(names[1:-1]) == sorted(expected)


SIGNALS = """
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
from benchmarkai import FifoNotCreatedInTimeError, FifoNotReadInTimeError, emit
"""


def test_signals_do_not_shorten_or_break_a_wait(tmpdir):
    pipe = Pipe(str(tmpdir.join("unread")))
    code = SIGNALS + (
        "import os, time; start = os.times()[4]\n"
        "try: emit({'a': 1})\n"
        "except FifoNotReadInTimeError: waited = os.times()[4] - start\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "print(waited)\n"
    )
    result = run_python(code, env=pipe.env(max_wait=0.5, step=0.1))
    assert float(result.out) >= 0.49, result.err


def test_signals_lose_nothing(pipe):
    code = SIGNALS + "for index in range(3000): emit({'name%d' % index: index, 'x' * 500: 1})\n"
    code += "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    process = start([sys.executable, "-c", code], pipe.env(), stderr=subprocess.PIPE)
    texts = []

    def ended():
        texts.append(pipe.read())
        return process.poll() is not None

    wait_until(ended)
    texts.append(pipe.read())
    result = finish(process)
    assert (result.code, result.err) == (0, "")
    assert [min(json.loads(line)) for line in "".join(texts).splitlines()] == [
        "name%d" % index for index in range(3000)
    ]


def test_a_call_with_many_metrics_goes_as_several_whole_lines(pipe):
    code = "from benchmarkai import emit; emit(dict(('name%04d' % n, n) for n in range(1000)))"
    assert run_python(code, env=pipe.env()).code == 0
    lines = pipe.read().splitlines(True)
    assert len(lines) > 1 and all(len(line) <= LONGEST for line in lines)
    found = {}
    for line in lines:
        found.update(json.loads(line))
    assert found == {"name%04d" % n: n for n in range(1000)}


def test_a_metric_that_does_not_fit_means_that_nothing_is_written(pipe):
    code = (
        "from benchmarkai import emit\n"
        "metrics = dict(('name%04d' % n, n) for n in range(1000)); metrics['x' * 5000] = 1\n"
        "try: emit(metrics)\n"
        "except ValueError as error: print(error)\n"
    )
    result = run_python(code, env=pipe.env())
    assert "shorten the name" in result.out
    assert pipe.read() == ""


def test_a_notice_comes_once_after_a_second(pipe):
    said = []
    pipe.fill()
    with pytest.raises(FifoNotReadInTimeError):
        sink(pipe.path, max_wait=1.2, step=10, notify=said.append).write([LINE])
    assert said == ["nobody has read the full pipe %r: waiting for up to 1.2 s" % pipe.path]


def test_no_notice_comes_before(pipe):
    said = []
    pipe.fill()
    with pytest.raises(FifoNotReadInTimeError):
        sink(pipe.path, max_wait=0.2, notify=said.append).write([LINE])
    assert said == []


def test_a_pipe_held_open_keeps_its_mode(pipe):
    mode = os.stat(pipe.path).st_mode
    sink(pipe.path).write([LINE])
    assert os.stat(pipe.path).st_mode == mode and stat.S_ISFIFO(mode)


def test_a_writer_stopped_and_killed_leaves_whole_lines(pipe):
    code = "from benchmarkai import emit\nwhile True: emit({'x' * 900: 1, 'y' * 900: 2})"
    for _ in range(10):
        process = start([sys.executable, "-c", code], pipe.env(max_wait=WAIT))
        texts = []

        def arrived():
            texts.append(pipe.read())
            return any(texts)

        wait_until(arrived)
        process.send_signal(signal.SIGKILL)
        process.wait()
        texts.append(pipe.read())
        for line in "".join(texts).splitlines(True):
            assert line.endswith("\n") and json.loads(line)


def test_sleeping_is_not_needed_when_all_is_well(pipe, monkeypatch):
    monkeypatch.setattr(time, "sleep", None)
    sink(pipe.path).write([LINE])
    assert pipe.read() == LINE
