"""emit(): the settings choose a sink, once; each call sends its metrics there."""

import os

from benchmarkai._compat import PY2
from benchmarkai.metrics import check_unique, lines, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, SupportsFloat, SupportsIndex, Union  # noqa: F401 # novm

MODE = "BENCHMARK_AI"
FIFO_PATH = "BENCHMARK_AI_FIFO_FILEPATH"
MAX_WAIT = "BENCHMARK_AI_FIFO_MAX_WAIT_TIME"
WAIT_STEP = "BENCHMARK_AI_FIFO_WAIT_TIME_STEP"

DEFAULT_PATH = "/tmp/benchmark-ai-fifo"
DEFAULT_MAX_WAIT = "10"
DEFAULT_WAIT_STEP = "0.5"

_sinks = []  # the one that the settings choose, when it is known


def emit(metrics):
    # type: (Mapping[str, Union[SupportsFloat, SupportsIndex]]) -> None
    """Publish metrics, such as emit({"alexnet.latency": 0.42}), as one line of JSON.

    metrics: a mapping of names (text) to finite numbers: int, float, or any scalar that
    converts itself to one of them (numpy, torch, Decimal, ...). The unit of a number is
    yours; say it in the name where it is not plain.

    The line goes to stdout, or into the named pipe where the environment variable
    BENCHMARK_AI is "fifo". All metrics are checked before anything is written.

    Raises TypeError for what is no mapping, no name or no number; ValueError for no metrics,
    an empty name, NaN and infinities (RFC 8259 has none), a metric too long for the pipe, and
    a setting that cannot be used; FifoError, within BENCHMARK_AI_FIFO_MAX_WAIT_TIME seconds,
    when the pipe does not take the metrics; OSError (IOError on Python 2) when stdout does
    not.
    """
    if not _sinks:
        _sinks.append(open_sink())
    sink = _sinks[0]  # the first, also where threads have come here at the same time
    if type(metrics) is dict and not PY2:
        pairs = list(metrics.items())  # at once: another thread may add to them
    else:
        pairs = _pairs_of_mapping(metrics)
    sink.write(lines(pairs, sink.longest))


def open_sink(options=None, environ=None, notify=None):
    """Return the sink that the settings choose.

    options: settings by the name of their variable, each (how the user calls it, its text);
    they come before the variables of environ (os.environ if it is None).
    notify: called with a text when a write to a pipe has waited for a second.

    Raises ValueError for a setting that cannot be used.
    """
    options = options or {}
    environ = os.environ if environ is None else environ

    def setting(variable, default):
        # An empty variable is as good as none: containers often cannot unset one.
        return options.get(variable) or (variable, environ.get(variable) or default)

    name, mode = setting(MODE, "stdout")
    if mode.lower() == "stdout":
        from benchmarkai.stdout import Stdout

        return Stdout()
    if mode.lower() == "fifo":
        from benchmarkai.fifo import Fifo

        return Fifo(
            setting(FIFO_PATH, DEFAULT_PATH)[1],
            seconds(*setting(MAX_WAIT, DEFAULT_MAX_WAIT)),
            positive_seconds(*setting(WAIT_STEP, DEFAULT_WAIT_STEP)),
            notify,
        )
    raise ValueError("%s is %s: set it to stdout or fifo" % (name, show(mode)))


def seconds(name, text):
    """Return the seconds that the text says; ValueError unless they are finite and 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(
            "%s is %s: set it to a number of seconds, 0 or more, such as 10" % (name, show(text))
        )
    return value


def positive_seconds(name, text):
    """As seconds(), and ValueError for 0 too."""
    value = seconds(name, text)
    if not value:
        raise ValueError("%s is %s: set it to more than 0, such as 0.5" % (name, show(text)))
    return value


def _pairs_of_mapping(metrics):
    # Only here: collections is slow to import, and nearly all metrics are a dict.
    try:
        from collections.abc import Mapping  # novm
    except ImportError:  # Python 2
        from collections import Mapping  # novm

    if not isinstance(metrics, Mapping):
        raise TypeError(
            "the metrics are %s, of type %s: give a mapping of names to numbers, such as "
            '{"loss": 0.42}' % (show(metrics), type(metrics).__name__)
        )
    pairs = list(metrics.items())
    # A mapping may have a name more than once, as one of HTTP headers does; a dict of
    # Python 2 may have it as text and as UTF-8.
    check_unique(pairs)
    return pairs
