"""Waiting until a descriptor can be written or read."""

import errno
import select

POLLIN = select.POLLIN
POLLOUT = select.POLLOUT


def wait_for(event, descriptor, seconds=None):
    """Return when the event has come, when a signal has come, or after the seconds.

    event: POLLIN or POLLOUT; without seconds there is no limit.
    """
    poll = select.poll()
    poll.register(descriptor, event)
    try:
        # Milliseconds, rounded up: poll(0) would not wait at all.
        poll.poll(None if seconds is None else int(seconds * 1000) + 1)
    except (EnvironmentError, select.error) as error:
        if error.args[0] != errno.EINTR:
            raise
