"""Waiting for a descriptor with poll(2)."""

import errno
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional  # noqa: F401

POLLIN = select.POLLIN
POLLOUT = select.POLLOUT


def wait_for(event, descriptor, timeout=None):
    # type: (int, Any, Optional[float]) -> None
    """Return when the event occurs, when a signal arrives, or after the timeout.

    event: POLLIN or POLLOUT.
    descriptor: a file descriptor, or an object with fileno().
    timeout: seconds; None waits without a limit.
    """
    poll = select.poll()
    poll.register(descriptor, event)
    try:
        # Milliseconds, rounded up: poll(0) would return at once.
        poll.poll(None if timeout is None else int(timeout * 1000) + 1)
    except (EnvironmentError, select.error) as error:
        if error.args[0] != errno.EINTR:
            raise
