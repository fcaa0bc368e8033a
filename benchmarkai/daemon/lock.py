"""A lock file: one process at a time."""

import contextlib
import errno
import fcntl
import os
import stat
from typing import Iterator

from benchmarkai.daemon.files import leads_to


class Locked(Exception):
    """Another process holds the lock."""


class Untrusted(Exception):
    """The file is not a regular file of this user."""


@contextlib.contextmanager
def lock_file(path: str) -> Iterator[None]:
    """Hold the lock of a file that only this user can open. It is there as long as it is held.

    Raises Locked, Untrusted, and OSError if the file cannot be created.
    """
    while True:
        descriptor = _open(path)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise Untrusted()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Locked() from None
            # The process that held it may just have removed the file.
            if not leads_to(path, status):
                continue
            try:
                yield
                return
            finally:
                if leads_to(path, status):
                    os.unlink(path)
        finally:
            os.close(descriptor)


def _open(path: str) -> int:
    # With O_NONBLOCK, a pipe that somebody has put there is an error, not a wait.
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        # In a folder like /tmp, the kernel may not let us open what somebody else has put there
        # (fs.protected_regular).
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO) or os.path.lexists(path):
            raise Untrusted() from error
        raise
