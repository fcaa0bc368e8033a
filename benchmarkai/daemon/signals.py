"""The signals that the daemon handles itself."""

import contextlib
import os
import signal
from types import FrameType
from typing import Callable, List, Optional

from benchmarkai.child import PASSED_SIGNALS

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Collects signals while its context is open, so that they do not end the process.

    with_command: whether to collect those too that are passed on to a command.

    fileno() becomes readable when a signal arrives, SIGCHLD included. Signals that are ignored,
    as nohup ignores SIGHUP, stay ignored. The previous handlers come back at the end.
    """

    def __init__(self, with_command: bool) -> None:
        self._numbers = PASSED_SIGNALS if with_command else (*STOP_SIGNALS, signal.SIGUSR1)
        self._received: List[int] = []

    def __enter__(self) -> "Signals":
        with contextlib.ExitStack() as stack:
            self._reader, writer = os.pipe()
            for descriptor in (self._reader, writer):
                stack.callback(os.close, descriptor)
                os.set_blocking(descriptor, False)
            old_descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            stack.callback(signal.set_wakeup_fd, old_descriptor)
            for number in self._numbers:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handle(stack, number, lambda number, frame: self._received.append(number))
            # Without a handler, the end of a child would not wake anybody.
            self._handle(stack, signal.SIGCHLD, lambda number, frame: None)
            self._restore = stack.pop_all()
        return self

    @staticmethod
    def _handle(
        stack: contextlib.ExitStack,
        number: signal.Signals,
        handler: Callable[[int, Optional[FrameType]], None],
    ) -> None:
        stack.callback(signal.signal, number, signal.signal(number, handler))

    def __exit__(self, *error: object) -> None:
        self._restore.close()

    def fileno(self) -> int:
        return self._reader

    def take(self) -> List[int]:
        """Return the numbers of the signals that have arrived since the last call."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass
        received, self._received = self._received, []
        return received
