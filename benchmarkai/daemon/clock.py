"""The clocks of the daemon, and its only way to wait. Tests put a virtual clock in their place."""

import select
import time
from typing import Protocol


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class Clock:
    def time(self) -> int:
        """Return nanoseconds since 1970 UTC."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Return seconds since some moment. They never go back."""
        return time.monotonic()

    def wait(self, seconds: float, *sources: _HasFileno) -> None:
        """Wait until one of the sources is readable, at most so many seconds."""
        poll = select.poll()
        for source in sources:
            poll.register(source, select.POLLIN)
        poll.poll(seconds * 1000)
