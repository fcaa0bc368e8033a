"""FIFO mode with real pipes, and readers that are late, go away, stop and come back."""

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

from benchmarkai import (
    FifoError,
    FifoNotCreatedInTimeError,
    FifoNotReadInTimeError,
    NotAFifoError,
)
from benchmarkai import fifo as fifo_module
from benchmarkai.fifo import MAX_LINE_SIZE, FifoSink
from tests.helpers import (
    NOT_MEASURED,
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

EMIT = "from benchmarkai import emit; emit({'a': 0.5})"
LINE = '{"a": 0.5}\n'


def make_sink(path, max_wait=WAIT, step=0.01, notify=None):
    return FifoSink(str(path), max_wait, step, notify)


def later(action):
    """Call the action in a moment, in the background."""

    def wait_and_call():
        time.sleep(0.1)
        return action()

    return Background(wait_and_call)


def test_the_line_goes_to_the_pipe_and_nothing_to_stdout_or_stderr(fifo):
    assert run_python(EMIT, env=fifo.env()) == (0, "", "")
    assert fifo.read() == LINE


def test_all_errors_are_fifo_errors():
    for kind in (FifoNotCreatedInTimeError, FifoNotReadInTimeError, NotAFifoError):
        assert issubclass(kind, FifoError)


def test_a_missing_pipe_is_an_error_after_max_wait(tmpdir):
    path = tmpdir.join("none")
    with pytest.raises(FifoNotCreatedInTimeError) as caught:
        make_sink(path, max_wait=0.05).write([LINE])
    assert str(path) in str(caught.value)
    assert re.search(r" after 0\.\d+ s: ", str(caught.value))
    assert "start the daemon" in str(caught.value)
    assert not path.check()


def test_an_error_has_a_single_traceback():
    result = run_python(
        EMIT, env={"BENCHMARK_AI": "fifo", "BENCHMARK_AI_FIFO_FILEPATH": "/dev/null"}
    )
    assert result.err.count("Traceback") == 1 and "NotAFifoError" in result.err
    with open("/dev/full", "w") as full:
        result = run_python(EMIT, stdout=full)
    assert result.err.count("Traceback") == 1 and "cannot write to stdout" in result.err


def test_a_max_wait_of_0_still_tries_once(tmpdir, fifo):
    make_sink(fifo.path, max_wait=0).write([LINE])
    assert fifo.read() == LINE
    with pytest.raises(FifoNotCreatedInTimeError):
        make_sink(tmpdir.join("none"), max_wait=0).write([LINE])


def test_write_waits_for_the_pipe_to_be_created(tmpdir):
    def create():
        fifo = FifoReader(str(tmpdir.join("late")))
        fifo.open()
        return fifo

    creation = later(create)
    make_sink(tmpdir.join("late")).write([LINE])
    fifo = creation.result()
    assert fifo.read() == LINE
    fifo.close()


def test_a_pipe_without_a_reader_is_an_error_after_max_wait(tmpdir):
    fifo = FifoReader(str(tmpdir.join("unread")))
    with pytest.raises(FifoNotReadInTimeError) as caught:
        make_sink(fifo.path, max_wait=0.05).write([LINE])
    assert "nobody reads the pipe %r after 0." % fifo.path in str(caught.value)


def test_write_waits_for_a_reader(tmpdir):
    fifo = FifoReader(str(tmpdir.join("unread")))
    opening = later(fifo.open)
    make_sink(fifo.path).write([LINE])
    opening.result()
    assert fifo.read() == LINE
    fifo.close()


def test_a_pipe_that_stays_full_is_an_error_and_works_again_once_read(fifo):
    sink = make_sink(fifo.path, max_wait=0.1)
    sink.write([LINE])
    size = fifo.fill()
    with pytest.raises(FifoNotReadInTimeError) as caught:
        sink.write([LINE])
    assert "full pipe %r after 0." % fifo.path in str(caught.value)
    assert fifo.read() == LINE + "\n" * size
    sink.write([LINE])
    assert fifo.read() == LINE


def test_write_waits_for_room_in_a_full_pipe(fifo):
    size = fifo.fill()
    reading = later(fifo.read)
    make_sink(fifo.path).write([LINE])
    assert reading.result() + fifo.read() == "\n" * size + LINE


def test_a_reader_that_comes_back_finds_everything(fifo):
    sink = make_sink(fifo.path)
    sink.write([LINE])
    fifo.close()
    fifo.open()
    sink.write([LINE])
    # The unread line is still in the pipe, because the sink holds the pipe open.
    assert fifo.read() == LINE * 2


def test_a_recreated_pipe_is_found(fifo):
    sink = make_sink(fifo.path)
    sink.write([LINE])
    fifo.close()
    os.unlink(fifo.path)
    other = FifoReader(fifo.path)
    other.open()
    sink.write([LINE])
    assert other.read() == LINE
    other.close()


def test_a_recreated_pipe_is_found_after_an_error(fifo):
    sink = make_sink(fifo.path, max_wait=0.05)
    sink.write([LINE])
    fifo.fill()
    with pytest.raises(FifoNotReadInTimeError):
        sink.write([LINE])
    os.unlink(fifo.path)  # its reader still has it open, but does not read
    other = FifoReader(fifo.path)
    other.open()
    sink.write([LINE])
    assert other.read() == LINE
    other.close()


@pytest.mark.parametrize("max_wait, step", [(1e300, 1e300), (2592000, 1e12)])
def test_waits_may_be_longer_than_the_system_can_sleep(max_wait, step, fifo):
    fifo.fill()
    reading = later(fifo.read)
    bounded(lambda: make_sink(fifo.path, max_wait=max_wait, step=step).write([LINE]))
    reading.result()
    # Nobody creates this pipe; the signal ends the sleep between the checks for it.
    code = (
        "import signal; from benchmarkai.fifo import FifoSink\n"
        "signal.signal(signal.SIGALRM, lambda *_: 1 // 0)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.3)\n"
        "FifoSink('/nonexistent', %r, %r).write(['x'])"
    )
    assert "ZeroDivisionError" in run_python(code % (max_wait, step)).err


def test_losing_the_reader_or_the_pipe_is_an_error_after_max_wait(fifo):
    sink = make_sink(fifo.path, max_wait=0.1)
    sink.write([LINE])
    fifo.close()
    with pytest.raises(FifoNotReadInTimeError):
        sink.write([LINE])
    os.unlink(fifo.path)
    with pytest.raises(FifoNotCreatedInTimeError):
        sink.write([LINE])
    # The next call has a deadline of its own.
    other = FifoReader(fifo.path)
    other.open()
    sink.write([LINE])
    assert other.read() == LINE
    other.close()


def test_the_error_tells_how_many_lines_had_been_written(fifo):
    sink = make_sink(fifo.path, max_wait=0.1)
    long = "x" * (MAX_LINE_SIZE - 1) + "\n"
    with pytest.raises(FifoNotReadInTimeError) as caught:
        sink.write([long] * 100)
    written = fifo.read().count("\n")
    assert written > 0
    assert "(%d of the 100 lines of this call had been written)" % written in str(caught.value)


def test_a_file_that_is_not_a_pipe_is_rejected_and_left_as_it_is(tmpdir):
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
            make_sink(path).write([LINE])
        assert "%r is %s" % (str(path), kind) in str(caught.value)
    listener.close()
    assert secret.read() == "precious"


def test_the_path_may_be_a_link_to_a_pipe(fifo, tmpdir):
    tmpdir.join("link").mksymlinkto(fifo.path)
    make_sink(tmpdir.join("link")).write([LINE])
    assert fifo.read() == LINE


@pytest.mark.parametrize(
    "name, error",
    [("x" * 5000, errno.ENAMETOOLONG), ("file/pipe", errno.ENOTDIR), ("loop", errno.ELOOP)],
)
def test_a_path_that_the_system_rejects_is_an_error_at_once(tmpdir, name, error):
    tmpdir.join("file").write("")
    tmpdir.join("loop").mksymlinkto(tmpdir.join("loop"))
    with pytest.raises(FifoError) as caught:
        make_sink(tmpdir.join(name)).write([LINE])
    assert os.strerror(error) in str(caught.value)


def test_an_error_message_has_one_line_even_if_the_path_has_two(tmpdir):
    with pytest.raises(FifoNotCreatedInTimeError) as caught:
        make_sink(tmpdir.join("a\nb"), max_wait=0).write([LINE])
    assert "\n" not in str(caught.value)


def test_a_pipe_without_write_permission_is_an_error_at_once():
    directory = tempfile.mkdtemp()  # not tmpdir: other users cannot enter that one
    os.chmod(directory, 0o755)
    path = FifoReader(os.path.join(directory, "private")).path
    os.chmod(path, 0)
    # Root may write to any pipe, so the process becomes another user.
    code = (
        "import os; from benchmarkai import FifoError; from benchmarkai.fifo import FifoSink\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: FifoSink(%r, %r, 0.01).write(['x'])\n"
        "except FifoError as error: print(error)\n"
    )
    try:
        result = run_python(code % (path, WAIT), env=NOT_MEASURED)
    finally:
        shutil.rmtree(directory)
    assert (result.code, result.err) == (0, "")
    assert re.search(r"Permission denied( after 0\.\d+ s)?: check the path", result.out)


def test_running_out_of_descriptors_is_an_error_and_the_next_call_works(fifo):
    sink = make_sink(fifo.path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    duplicates = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with pytest.raises(EnvironmentError):
            while True:
                duplicates.append(os.dup(0))
        with pytest.raises(FifoError) as caught:
            sink.write([LINE])
        assert os.strerror(errno.EMFILE) in str(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in duplicates:
            os.close(descriptor)
    sink.write([LINE])
    assert fifo.read() == LINE


def test_emit_works_after_the_program_has_closed_all_descriptors(fifo):
    code = (
        "import os; from benchmarkai import emit\n"
        "emit({'a': 0.5}); os.closerange(3, 100); emit({'a': 0.5})\n"
    )
    assert run_python(code, env=fifo.env()).code == 0
    assert fifo.read() == LINE * 2


def test_no_metrics_go_to_files_opened_after_all_descriptors_were_closed(fifo, tmpdir):
    code = (
        "import os; from benchmarkai import emit\n"
        "emit({'a': 0.5}); os.closerange(3, 1000)\n"
        "files = [open(%r + str(n), 'w') for n in range(100)]\n"
        "emit({'a': 0.5})\n"
    ) % str(tmpdir.join("file"))
    assert run_python(code, env=fifo.env()).code == 0
    assert fifo.read() == LINE * 2
    assert not any(tmpdir.join("file%d" % n).size() for n in range(100))


# A daemon closes all descriptors, and opens others, which get the same numbers.
DAEMON = (
    "import os, resource, socket; from benchmarkai import emit\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (1000, resource.getrlimit(7)[1]))\n"
    "emit({'a': 0.5})\n"
    "if %r and os.fork(): os._exit(os.wait()[1] and 1)\n"
    "os.closerange(3, 1000)\n"
)


def test_no_metrics_go_to_a_file_that_a_forked_daemon_opens(fifo, tmpdir):
    code = DAEMON % True + (
        "files = [open(%r + str(n), 'w') for n in range(300)]\nemit({'a': 0.5}); emit({'a': 0.5})\n"
    ) % str(tmpdir.join("file"))
    assert run_python(code, env=fifo.env()) == (0, "", "")
    assert fifo.read() == LINE * 3
    assert not any(tmpdir.join("file%d" % n).size() for n in range(300))


def test_a_descriptor_that_fails_and_is_not_ours_is_left_alone(fifo):
    code = DAEMON % False + (
        # Number 200 is one whose peer is gone, and a write fails as that to a pipe does.
        "null = open('/dev/null'); sockets = [socket.socketpair() for n in range(150)]\n"
        "left = [pair[0] for pair in sockets]; del sockets\n"
        "assert 200 in [socket.fileno() for socket in left]\n"
        "emit({'a': 0.5})\n"
        "for one in left: one.getsockname()\n"
    )
    assert run_python(code, env=fifo.env()) == (0, "", "")
    assert fifo.read() == LINE * 2


def test_a_reopened_pipe_without_a_reader_is_not_tried_without_a_pause(monkeypatch):
    # /dev/fd/N of a pipe opens without a reader, such as that of --fifo >(true).
    reader, writer = os.pipe()
    os.close(reader)
    opened = []
    system_open = os.open
    monkeypatch.setattr(os, "open", lambda *args: opened.append(args) or system_open(*args))
    with pytest.raises(FifoNotReadInTimeError) as caught:
        make_sink("/dev/fd/%d" % writer, max_wait=0.2, step=0.05).write([LINE])
    os.close(writer)
    assert 2 <= len(opened) <= 30  # without a pause there are thousands
    assert "went away after 0." in str(caught.value)


INTERRUPT = """
import os, sys
from benchmarkai import emit, fifo

def trace(frame, event, argument):
    global left
    if frame.f_code.co_filename != fifo.__file__.replace(".pyc", ".py"): return None
    left -= event == "line"
    if not left:
        sys.settrace(None)
        others.append(os.open("/dev/null", os.O_RDONLY))
        raise KeyboardInterrupt
    return trace

count = 0
while True:
    count += 1
    others, left = [], count
    child = os.fork()
    if not child:
        sys.settrace(trace)
        try: emit({"a": 1})
        except KeyboardInterrupt: os.fstat(others[0])
        sys.settrace(None)
        emit({"b": 1})
        os._exit(0 if left <= 0 else 5)
    status = os.waitpid(child, 0)[1]
    if status == 5 << 8: break
    assert status == 0, (count, status)
print(count)
"""


def test_an_interrupt_at_any_line_stays_one_and_closes_no_other_descriptor(fifo):
    result = run_python(INTERRUPT, env=fifo.env())
    assert result.code == 0, result.err
    assert int(result.out) > 20
    assert fifo.read().count('{"b": 1}\n') == int(result.out)


def test_a_pipe_that_was_full_does_not_kill_a_program_with_the_default_sigpipe(fifo):
    code = (
        "import signal, sys; from benchmarkai import FifoNotReadInTimeError, emit\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "try:\n"
        "    while True: emit({'x' * 500: 1})\n"
        "except FifoNotReadInTimeError: print('full'); sys.stdout.flush()\n"
        "sys.stdin.read(); emit({'a': 0.5})\n"
    )
    process = start(
        [sys.executable, "-c", code],
        env=fifo.env(max_wait=0.1),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert bounded(process.stdout.readline) == b"full\n"
    fifo.read()
    assert finish(process).code == 0
    assert fifo.read() == LINE


def test_threads_that_emit_first_at_the_same_time_open_the_pipe_once(fifo):
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
    ) % os.path.realpath(fifo.path)
    for _ in range(5):
        assert run_python(code, env=fifo.env()).out == "1\n"
        assert fifo.read() == LINE * 32


def test_the_descriptor_does_not_leak_into_child_programs(fifo):
    code = (
        "import os, subprocess, sys; from benchmarkai import emit\n"
        "emit({'a': 0.5})\n"
        "subprocess.call(['ls', '-l', '/proc/self/fd'], close_fds=False)\n"
    )
    result = run_python(code, env=fifo.env())
    assert result.code == 0 and fifo.path not in result.out
    # The descriptor of a reopened pipe does not leak either.
    reopen = (
        "import os, subprocess; from benchmarkai import emit\n"
        "reader = os.open(%r, os.O_RDONLY | os.O_NONBLOCK)\n"
        "emit({'a': 0.5}); os.close(reader)\n"
        "reader = os.open(%r, os.O_RDONLY | os.O_NONBLOCK)\n"
        "emit({'a': 0.5}); os.close(reader)\n"
        "subprocess.call(['ls', '-l', '/proc/self/fd'], close_fds=False)\n" % (fifo.path, fifo.path)
    )
    fifo.close()
    result = run_python(reopen, env=fifo.env())
    assert result.code == 0, result.err
    assert fifo.path not in result.out


@pytest.mark.parametrize("number", [0, 1, 2])
def test_output_to_a_closed_standard_stream_does_not_reach_the_pipe(fifo, number):
    code = (
        "import os; os.close(%d)\n"
        "from benchmarkai import emit; emit({'a': 0.5})\n"
        "try: os.write(%d, b'not a metric')\n"
        "except OSError: pass\n"
    ) % (number, number)
    run_python(code, env=fifo.env())
    assert fifo.read() == LINE


def test_threads_share_the_pipe(fifo):
    sink = make_sink(fifo.path)
    count, threads = 500, 16
    texts = []
    done = threading.Event()

    def read():
        while not done.is_set():
            texts.append(fifo.read())
            done.wait(0.001)

    def work(number):
        for index in range(count):
            sink.write(['{"%d.%d": 1}\n' % (number, index)])

    reading = Background(read)
    workers = [Background(lambda number=number: work(number)) for number in range(threads)]
    for worker in workers:
        worker.result()
    done.set()
    reading.result()
    texts.append(fifo.read())
    names = [name for line in "".join(texts).splitlines() for name in json.loads(line)]
    assert sorted(names) == sorted("%d.%d" % (n, i) for n in range(threads) for i in range(count))


def test_forked_processes_share_the_pipe(fifo):
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
    assert run_python(code, env=fifo.env()).code == 0
    names = [name for line in fifo.read().splitlines() for name in json.loads(line)]
    expected = ["%d.%d" % (child, index) for child in range(4) for index in range(100)]
    assert names[0] == "before" and names[-1] == "after"
    assert sorted(names[1:-1]) == sorted(expected)


SIGNALS = """
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
from benchmarkai import FifoNotCreatedInTimeError, FifoNotReadInTimeError, emit
"""


def test_signals_neither_shorten_nor_break_a_wait(tmpdir):
    fifo = FifoReader(str(tmpdir.join("unread")))
    code = SIGNALS + (
        "import os, time; start = os.times()[4]\n"
        "try: emit({'a': 1})\n"
        "except FifoNotReadInTimeError: waited = os.times()[4] - start\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "print(waited)\n"
    )
    result = run_python(code, env=fifo.env(max_wait=0.5, step=0.1))
    assert float(result.out) >= 0.49, result.err


def test_signals_lose_no_metrics(fifo):
    code = SIGNALS + "for index in range(3000): emit({'name%d' % index: index, 'x' * 500: 1})\n"
    code += "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    process = start([sys.executable, "-c", code], fifo.env(), stderr=subprocess.PIPE)
    texts = []

    def has_ended():
        texts.append(fifo.read())
        return process.poll() is not None

    wait_until(has_ended)
    texts.append(fifo.read())
    assert finish(process) == (0, None, "")
    assert [min(json.loads(line)) for line in "".join(texts).splitlines()] == [
        "name%d" % index for index in range(3000)
    ]


def test_a_call_with_many_metrics_writes_several_whole_lines(fifo):
    code = "from benchmarkai import emit; emit(dict(('name%04d' % n, n) for n in range(1000)))"
    assert run_python(code, env=fifo.env()).code == 0
    lines = fifo.read().splitlines(True)
    assert len(lines) > 1 and all(len(line) <= MAX_LINE_SIZE for line in lines)
    found = {}
    for line in lines:
        found.update(json.loads(line))
    assert found == {"name%04d" % n: n for n in range(1000)}


def test_nothing_is_written_if_a_metric_does_not_fit_on_a_line(fifo):
    code = (
        "from benchmarkai import emit\n"
        "metrics = dict(('name%04d' % n, n) for n in range(1000)); metrics['x' * 5000] = 1\n"
        "try: emit(metrics)\n"
        "except ValueError as error: print(error)\n"
    )
    result = run_python(code, env=fifo.env())
    assert "shorten the name" in result.out
    assert fifo.read() == ""


def test_the_notice_is_sent_after_a_second(fifo):
    notices = []
    fifo.fill()
    with pytest.raises(FifoNotReadInTimeError):
        make_sink(fifo.path, max_wait=1.2, step=10, notify=notices.append).write([LINE])
    assert notices == ["nobody has read the full pipe %r: waiting for up to 1.2 s" % fifo.path]


def test_no_notice_is_sent_within_a_second(fifo):
    notices = []
    fifo.fill()
    with pytest.raises(FifoNotReadInTimeError):
        make_sink(fifo.path, max_wait=0.2, notify=notices.append).write([LINE])
    assert notices == []


def test_the_notice_is_sent_once_for_many_writes(fifo, monkeypatch):
    monkeypatch.setattr(fifo_module, "_NOTICE_AFTER", 0.05)
    notices = []
    fifo.fill()
    sink = make_sink(fifo.path, max_wait=0.2, notify=notices.append)
    for _ in range(2):
        with pytest.raises(FifoNotReadInTimeError):
            sink.write([LINE])
    assert notices == ["nobody has read the full pipe %r: waiting for up to 0.2 s" % fifo.path]


def test_writing_does_not_change_the_mode_of_the_pipe(fifo):
    mode = os.stat(fifo.path).st_mode
    make_sink(fifo.path).write([LINE])
    assert os.stat(fifo.path).st_mode == mode and stat.S_ISFIFO(mode)


def test_a_killed_writer_leaves_whole_lines(fifo):
    code = "from benchmarkai import emit\nwhile True: emit({'x' * 900: 1, 'y' * 900: 2})"
    for _ in range(10):
        process = start([sys.executable, "-c", code], fifo.env())
        texts = []

        def has_arrived():
            texts.append(fifo.read_block())
            return any(texts)

        wait_until(has_arrived)
        assert kill(process).code == -signal.SIGKILL
        texts.append(fifo.read())
        for line in "".join(texts).splitlines(True):
            assert line.endswith("\n") and json.loads(line)


def test_write_does_not_sleep_if_the_pipe_has_a_reader(fifo, monkeypatch):
    monkeypatch.setattr(time, "sleep", None)
    make_sink(fifo.path).write([LINE])
    assert fifo.read() == LINE
