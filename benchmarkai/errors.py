"""The errors of FIFO mode, and how any error message shows a value."""

from benchmarkai._compat import PY2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # noqa: F401


class FifoError(Exception):
    """The named pipe did not accept the metrics.

    written: the number of bytes that had been written before the error.
    """

    written = 0


class FifoNotCreatedInTimeError(FifoError):
    """No pipe appeared at the path before the deadline."""


class FifoNotReadInTimeError(FifoError):
    """Nobody read the pipe, or it stayed full, until the deadline."""


class NotAFifoError(FifoError):
    """The file at the path is not a named pipe."""


def short_repr(value):
    # type: (Any) -> str
    """Return a repr() of the value that fits on one line of an error message."""
    try:
        text = repr(value)
    except Exception:  # the value's own code, or an integer beyond Python's limit of digits
        text = "a value of type " + type(value).__name__
    if PY2 and text[:2] in ("u'", 'u"'):
        text = text[1:]
    return shorten(" ".join(text.split()))


def shorten(text):
    # type: (str) -> str
    """Cut the middle out of a text that is longer than 80 characters."""
    return text if len(text) <= 80 else text[:60] + "..." + text[-17:]
