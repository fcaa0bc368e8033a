"""Signals while the context is open, and afterwards."""

import fcntl
import os
import select
import signal
import sys
import termios
import threading

import pytest

from benchmarkai.daemon import signals as signals_module
from benchmarkai.daemon.signals import STOP_SIGNALS, Signals
from tests.daemon.harness import open_descriptors
from tests.helpers import (
    BAI_DAEMON,
    BAI_EMIT,
    WAIT,
    Background,
    finish,
    run,
    run_python,
    start,
    wait_until,
)

ALWAYS = {*STOP_SIGNALS, signal.SIGUSR1}
WITH_COMMAND = {*ALWAYS, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH}
ALL = {*WITH_COMMAND, signal.SIGCHLD}


@pytest.fixture(params=["signalfd", "handlers alone"])
def handlers(request, monkeypatch):
    """A function that returns the handler of each signal; it restores them in the end."""
    if request.param == "handlers alone":
        monkeypatch.setattr(signals_module, "_open_signalfd", lambda numbers: None)

    def current():
        return {number: signal.getsignal(number) for number in ALL}

    before, mask = current(), current_mask()
    yield current
    for number, handler in before.items():
        signal.signal(number, handler)
    assert current_mask() == mask


def current_mask():
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.fixture
def wakeup_descriptor():
    """A descriptor that is set as that of set_wakeup_fd()."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old_descriptor = signal.set_wakeup_fd(writer)
    yield writer
    signal.set_wakeup_fd(old_descriptor)
    os.close(reader)
    os.close(writer)


def current_wakeup_descriptor():
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor


def wait_for(signals):
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    assert poll.poll(WAIT * 1000)


@pytest.mark.parametrize("with_command", [False, True])
def test_only_the_signals_that_the_daemon_needs_are_collected(handlers, with_command):
    before = handlers()
    with Signals(with_command):
        changed = {number for number, handler in handlers().items() if handler != before[number]}
    assert changed == {*(WITH_COMMAND if with_command else ALWAYS), signal.SIGCHLD}


@pytest.mark.parametrize("number", sorted(WITH_COMMAND - {signal.SIGTSTP}))
def test_a_signal_is_collected_and_wakes_a_poll(handlers, number):
    with Signals(True) as signals:
        assert signals.take() == []
        # Not os.kill(): if another thread, left by a test, gets the signal, the poll may wake up
        # before there is anything to take.
        signal.raise_signal(number)
        wait_for(signals)
        assert signals.take() == [number]
        assert signals.take() == []
        assert not select.select([signals], [], [], 0)[0]


def test_the_end_of_a_child_wakes_a_poll(handlers):
    with Signals(False) as signals:
        signal.raise_signal(signal.SIGCHLD)
        wait_for(signals)
        assert signals.take() == []


@pytest.mark.parametrize("ignored", sorted(WITH_COMMAND))
def test_an_ignored_signal_stays_ignored(handlers, ignored):
    signal.signal(ignored, signal.SIG_IGN)
    with Signals(True) as signals:
        assert signal.getsignal(ignored) is signal.SIG_IGN
        signal.raise_signal(ignored)
        other = min(ALWAYS - {ignored})
        signal.raise_signal(other)
        wait_until(lambda: select.select([signals], [], [], 0)[0])
        assert signals.take() == [other]
    assert signal.getsignal(ignored) is signal.SIG_IGN


class Error(Exception):
    pass


@pytest.mark.parametrize("with_command", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_leaving_the_context_restores_everything(handlers, wakeup_descriptor, with_command, fails):
    for index, number in enumerate(sorted(ALL)):
        own_handlers = [signal.SIG_DFL, signal.SIG_IGN, lambda number, frame: None]
        signal.signal(number, own_handlers[index % 3])
    before, descriptors = handlers(), open_descriptors()
    try:
        with Signals(with_command):
            assert current_wakeup_descriptor() != wakeup_descriptor
            if fails:
                raise Error()
    except Error:
        pass
    assert handlers() == before
    assert current_wakeup_descriptor() == wakeup_descriptor
    assert open_descriptors() == descriptors


def test_a_context_that_cannot_be_entered_leaves_no_descriptor(handlers, wakeup_descriptor):
    before, descriptors = handlers(), open_descriptors()
    # Only the main thread may handle signals.
    with pytest.raises(ValueError, match="main thread"):
        Background(Signals(True).__enter__).result()
    assert handlers() == before
    assert current_wakeup_descriptor() == wakeup_descriptor
    assert open_descriptors() == descriptors


def test_a_signal_that_another_thread_gets_is_collected(handlers):
    with Signals(False) as signals:

        def get_one():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

        Background(get_one).result()
        wait_for(signals)
        assert signals.take() == [signal.SIGTERM]


def test_a_signal_that_is_not_taken_does_not_end_the_process(handlers):
    with Signals(True):
        for number in WITH_COMMAND:
            signal.raise_signal(number)


def test_handlers_that_somebody_else_sets_meanwhile_stay(handlers):
    with Signals(False):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(STOP_SIGNALS))
def test_without_a_command_a_signal_to_stop_ends_the_daemon_in_order(start_daemon, number):
    daemon = start_daemon("stdout", "--flush-interval", "100")
    daemon.emit("a=1")
    result = daemon.stop(number)
    assert (result.code, daemon.pairs()) == (0, [("a", 1)])
    assert "received 1, delivered 1, rejected 0, waiting 0" in result.err.splitlines()[-1]


def test_a_closed_terminal_ends_the_daemon_in_order(tmp_path):
    # The shell of an xterm is often replaced by its only command.
    master, slave = os.openpty()
    pipe = str(tmp_path / "pipe")
    with open(tmp_path / "out", "wb") as stdout:
        process = start(
            [BAI_DAEMON, "stdout", "--fifo", pipe],
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            stdin=slave,
            stdout=stdout,
            stderr=slave,
        )
    os.close(slave)
    wait_until(lambda: os.path.exists(pipe))
    assert run([BAI_EMIT, "--fifo", pipe, "a=1"]).code == 0
    os.close(master)
    assert finish(process).code == 0
    assert '"name": "a"' in (tmp_path / "out").read_text()


def test_nohup_is_respected(start_daemon):
    daemon = start_daemon("stdout", "--flush-interval", "0.01", program=["nohup", BAI_DAEMON])
    daemon.process.send_signal(signal.SIGHUP)
    daemon.emit("a=1")
    wait_until(lambda: daemon.pairs() == [("a", 1)])
    assert daemon.stop().code == 0


def test_sigusr1_does_not_end_the_daemon(start_daemon):
    daemon = start_daemon("stdout", "--flush-interval", "0.01")
    daemon.process.send_signal(signal.SIGUSR1)
    daemon.emit("a=1")
    wait_until(lambda: daemon.pairs() == [("a", 1)])
    assert daemon.stop().code == 0


def test_a_signal_between_the_last_report_and_the_exit_does_not_change_the_exit_code(start_daemon):
    code = (
        "import os, signal\n"
        "from benchmarkai.daemon import app, cli\n"
        "run = app.run\n"
        "def run_and_send(*arguments):\n"
        "    outcome = run(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return outcome\n"
        "app.run = run_and_send\n"
        "cli.main()"
    )
    daemon = start_daemon("stdout", program=[sys.executable, "-c", code])
    assert daemon.stop().code == 0


def test_more_signals_than_the_pipe_holds_do_no_harm():
    code = (
        "import os, signal\n"
        "from benchmarkai.daemon.signals import Signals\n"
        "with Signals(True) as signals:\n"
        "    for _ in range(100000): os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    received = signals.take()\n"
        "    assert set(received) == {signal.SIGUSR1}, set(received)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert signals.take() == [signal.SIGTERM]\n"
    )
    assert run_python(code) == (0, "", "")
