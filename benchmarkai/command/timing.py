"""bai-emit --time: run a command, and measure how long it takes."""

import fcntl
import os
import signal

from benchmarkai._compat import monotonic
from benchmarkai.child import PASSED_SIGNALS, Child
from benchmarkai.polling import POLLIN, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Sequence, Tuple  # noqa: F401


def run_and_measure(command):
    # type: (Sequence[str]) -> Tuple[int, float]
    """Run the command to its end; return its exit code, as a shell gives it, and its seconds.

    Signals are passed on to it meanwhile, except those that this process ignores.

    Raises child.CommandError.
    """
    received = []  # type: List[int]

    def collect(number, frame):
        # type: (int, Any) -> None
        received.append(number)

    # Python calls no handler while it is in waitpid(2), unless the signal interrupts that. One that
    # comes an instant earlier does not, so each also writes a byte to this pipe.
    reader, writer = os.pipe()
    for descriptor in (reader, writer):
        fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)  # for Python 2
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    old_descriptor = signal.set_wakeup_fd(writer)
    handlers = [(number, signal.getsignal(number)) for number in PASSED_SIGNALS]
    handlers = [pair for pair in handlers if pair[1] is not signal.SIG_IGN]
    for number, _ in handlers:
        signal.signal(number, collect)
    # Without a handler, the end of the command would not write.
    handlers.append((signal.SIGCHLD, signal.getsignal(signal.SIGCHLD)))
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    try:
        start = monotonic()
        early = len(received)  # those before the command was there
        passed = 0
        child = Child(command)
        while True:
            code = child.poll()
            if code is not None:
                return code, monotonic() - start
            for new in received[passed:]:
                child.send(new, early=passed < early)
                passed += 1
            wait_for(POLLIN, reader)
            os.read(reader, 4096)
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_descriptor)
        os.close(reader)
        os.close(writer)
