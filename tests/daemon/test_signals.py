"""Signals while the context is open, and afterwards."""

import os
import select
import signal

import pytest

from benchmarkai.daemon.signals import Signals
from tests.daemon.harness import open_descriptors
from tests.helpers import WAIT, Background, run_python, wait_until

STOP = {signal.SIGTERM, signal.SIGINT}
PASSED_ON = {signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
ALL = STOP | PASSED_ON | {signal.SIGCHLD}


@pytest.fixture
def handlers():
    """A function that returns the handler of each signal; it restores them in the end."""

    def current():
        return {number: signal.getsignal(number) for number in ALL}

    before = current()
    yield current
    for number, handler in before.items():
        signal.signal(number, handler)


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


def send(number):
    os.kill(os.getpid(), number)


def wait_for(signals):
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    assert poll.poll(WAIT * 1000)


@pytest.mark.parametrize("with_command", [False, True])
def test_only_the_signals_that_the_daemon_needs_are_collected(handlers, with_command):
    before = handlers()
    with Signals(with_command):
        changed = {number for number, handler in handlers().items() if handler != before[number]}
    assert changed == (ALL if with_command else STOP | {signal.SIGCHLD})


@pytest.mark.parametrize("number", sorted(STOP | PASSED_ON))
def test_a_signal_is_collected_and_wakes_a_poll(handlers, number):
    with Signals(True) as signals:
        assert signals.take() == []
        send(number)
        wait_for(signals)
        assert signals.take() == [number]
        assert signals.take() == []
        assert not select.select([signals], [], [], 0)[0]


def test_the_end_of_a_child_wakes_a_poll(handlers):
    with Signals(False) as signals:
        send(signal.SIGCHLD)
        wait_for(signals)
        assert signals.take() == []


@pytest.mark.parametrize("ignored", sorted(STOP | PASSED_ON))
def test_an_ignored_signal_stays_ignored(handlers, ignored):
    signal.signal(ignored, signal.SIG_IGN)
    with Signals(True) as signals:
        assert signal.getsignal(ignored) is signal.SIG_IGN
        send(ignored)
        other = min((STOP | PASSED_ON) - {ignored})
        send(other)
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


def test_more_signals_than_the_pipe_holds_do_no_harm():
    code = (
        "import os, signal\n"
        "from benchmarkai.daemon.signals import Signals\n"
        "with Signals(True) as signals:\n"
        "    for _ in range(100000): os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    received = signals.take()\n"
        "    assert set(received) == {signal.SIGUSR1}, set(received)\n"
        "    assert len(received) == 100000, len(received)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert signals.take() == [signal.SIGTERM]\n"
    )
    assert run_python(code) == (0, "", "")
