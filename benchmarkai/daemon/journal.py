"""What was read from the pipe and is not in the database yet: a file that survives SIGKILL."""

import contextlib
import os
import re
from typing import BinaryIO

from benchmarkai.daemon.files import leads_to, replace_file
from benchmarkai.daemon.log import log
from benchmarkai.daemon.pipe import Pipe

# The file starts with the position of its first byte of data in the stream of all data so far: so
# many digits, which SQLite can hold, and a newline.
_DIGITS = 18
_HEADER_SIZE = _DIGITS + 1
_HEADER = re.compile(rb"[0-9]{%d}\n" % _DIGITS)

_MAX_OLD_SIZE = 1 << 20  # bytes that are stored elsewhere, before the file is made anew


class Journal:
    """A file into which a pipe is emptied. Both happen at once: the kernel moves the data.

    path: the path of the file; it is created unless it exists.
    position: how much of the stream of data, in bytes since the spool was created, is stored
        elsewhere.

    pending: the data after the position.

    Raises OSError.
    """

    def __init__(self, path: str, position: int) -> None:
        self.path = path
        self.position = position
        self.pending = b""
        self._file: BinaryIO
        try:
            self._open()
        except FileNotFoundError:
            self._replace()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self.path, flags), "r+b", 0)
        content = self._file.read()
        header = content[:_HEADER_SIZE]
        if not _HEADER.fullmatch(header):
            self.close()
            if content:
                os.rename(self.path, self.path + ".broken")
                log.error("%r is not a journal: moved it to %r", self.path, self.path + ".broken")
            self._replace()
            return
        # If the database was lost, all of the file counts as new.
        self._start = int(header)
        self.position = max(self.position, self._start)
        self.pending = content[_HEADER_SIZE + self.position - self._start :]
        self._size = len(content)
        if not self.pending:
            self.close()
            self._replace()

    def close(self) -> None:
        self._file.close()

    def is_in_place(self) -> bool:
        """Return whether the path still leads to the file."""
        return not self._file.closed and leads_to(self.path, os.fstat(self._file.fileno()))

    def receive(self, pipe: Pipe) -> int:
        """Move the data in the pipe to the end of the file, and return how many bytes it was."""
        size = pipe.move(self._file.fileno(), self._size)
        if size:
            self.pending += os.pread(self._file.fileno(), size, self._size)
            self._size += size
        return size

    def advance(self, size: int) -> None:
        """Forget so many bytes of the pending data, which are now stored elsewhere."""
        self.position += size
        self.pending = self.pending[size:]
        if self.position - self._start >= _MAX_OLD_SIZE:
            with contextlib.suppress(OSError):  # no room on the disk: the file stays for now
                self.restore()

    def restore(self) -> None:
        """Create the file again, with the pending data."""
        old = self._file
        self._replace()
        old.close()

    def remove(self) -> None:
        """Remove the file if there is no pending data in it."""
        if not self.pending and self.is_in_place():
            os.unlink(self.path)

    def _replace(self) -> None:
        self._file = write_journal(self.path, self.position, self.pending)
        self._start = self.position
        self._size = _HEADER_SIZE + len(self.pending)


def write_journal(path: str, position: int, data: bytes) -> BinaryIO:
    """Put a file with this data alone at the path, whatever is there, and return it opened."""
    return replace_file(path, b"%0*d\n" % (_DIGITS, position) + data)
