"""Files that are there as a whole or not at all, and paths that lead to them."""

import contextlib
import os
from typing import BinaryIO

from benchmarkai.stdout import write_all


def replace_file(path: str, data: bytes) -> BinaryIO:
    """Put a file with this data at the path, whatever is there, and return it opened.

    Only this user can read it.

    Raises OSError.
    """
    new = path + ".new"
    remove_files(new)
    # Somebody else may have put something there again.
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    file = os.fdopen(os.open(new, flags, 0o600), "r+b", 0)
    try:
        write_all(file, data)
        os.rename(new, path)
    except BaseException:
        file.close()
        raise
    return file


def remove_files(*paths: str) -> None:
    """Remove the files that are there.

    Raises OSError.
    """
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def make_folder(path: str) -> None:
    """Create the folder of a path again if somebody has removed it.

    Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.dirname(path) or ".", 0o700)


def leads_to(path: str, status: os.stat_result) -> bool:
    """Return whether the path leads to the file with this status."""
    try:
        return os.path.samestat(os.lstat(path), status)
    except OSError:
        return False
