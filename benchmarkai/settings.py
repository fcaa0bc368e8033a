"""The environment variables, and the sink that they choose."""

import errno
import os

from benchmarkai.errors import short_repr
from benchmarkai.stdout import StdoutSink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Mapping, Optional, Tuple, Type, Union  # noqa: F401

    from benchmarkai.fifo import FifoSink  # noqa: F401

    Sink = Union[FifoSink, StdoutSink]

MODE = "BENCHMARK_AI"
FIFO_PATH = "BENCHMARK_AI_FIFO_FILEPATH"
MAX_WAIT = "BENCHMARK_AI_FIFO_MAX_WAIT_TIME"
WAIT_STEP = "BENCHMARK_AI_FIFO_WAIT_TIME_STEP"

DEFAULT_MODE = "stdout"
DEFAULT_FIFO_PATH = "/tmp/benchmark-ai-fifo"
DEFAULT_MAX_WAIT = "10"
DEFAULT_WAIT_STEP = "0.5"


def _load_fifo_sink():
    # type: () -> Type[FifoSink]
    try:
        from benchmarkai.fifo import FifoSink

        return FifoSink
    except (ImportError, RuntimeError):  # RuntimeError on Python 2
        raise IOError(
            errno.EAGAIN,
            "cannot load FIFO mode while the interpreter ends, or in a signal handler that has "
            "interrupted the first emit(): set %s before the program starts" % MODE,
        )


# Loaded now if it will probably be needed, because an emit() in a signal handler, or while the
# interpreter ends, may be unable to. The settings themselves are read later.
_fifo_sink = None  # type: Optional[Type[FifoSink]]
if os.environ.get(MODE, "").lower() == "fifo":
    _fifo_sink = _load_fifo_sink()


def open_sink(options=None, environ=None, notify=None, alone=False):
    # type: (Optional[Mapping[str, Tuple[str, str]]], Optional[Mapping[str, str]], Optional[Callable[[str], None]], bool) -> Sink  # noqa: E501
    """Return the sink that the settings choose.

    options: settings that override the environment, by the name of their variable: each is
        (the name of the option, for error messages; its text).
    environ: the environment; os.environ if it is None.
    notify: called once with a text when a write to a pipe has waited for a second.
    alone: see StdoutSink.

    Raises ValueError for a setting that cannot be used; OSError (IOError on Python 2) if the code
    of the sink cannot be loaded at the moment.
    """
    options = options or {}
    environ = os.environ if environ is None else environ

    def setting(variable, default):
        # type: (str, str) -> Tuple[str, str]
        # An empty variable counts as unset: containers often cannot unset one.
        return options.get(variable) or (variable, environ.get(variable) or default)

    name, mode = setting(MODE, DEFAULT_MODE)
    if mode.lower() == "stdout":
        return StdoutSink(alone)
    if mode.lower() == "fifo":
        return (_fifo_sink or _load_fifo_sink())(
            setting(FIFO_PATH, DEFAULT_FIFO_PATH)[1],
            parse_seconds(*setting(MAX_WAIT, DEFAULT_MAX_WAIT)),
            parse_positive_seconds(*setting(WAIT_STEP, DEFAULT_WAIT_STEP)),
            notify,
        )
    raise ValueError("%s is %s: set it to stdout or fifo" % (name, short_repr(mode)))


def parse_seconds(name, text):
    # type: (str, str) -> float
    """Return the seconds in the text. Raises ValueError unless they are finite and 0 or more.

    name: the variable or option that the text comes from.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(
            "%s is %s: set it to a number of seconds, 0 or more, such as 10"
            % (name, short_repr(text))
        )
    return seconds


def parse_positive_seconds(name, text):
    # type: (str, str) -> float
    """Like parse_seconds(), but 0 is an error too."""
    seconds = parse_seconds(name, text)
    if not seconds:
        raise ValueError("%s is %s: set it to more than 0, such as 0.5" % (name, short_repr(text)))
    return seconds
