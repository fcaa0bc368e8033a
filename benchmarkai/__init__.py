"""Publish the metrics of a benchmark: one line of JSON to stdout or to a named pipe."""

from benchmarkai._compat import PY2, Mapping
from benchmarkai.errors import (
    FifoError,
    FifoNotCreatedInTimeError,
    FifoNotReadInTimeError,
    NotAFifoError,
    short_repr,
)
from benchmarkai.metrics import check_unique, encode, fill_template, make_template
from benchmarkai.settings import open_sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, SupportsFloat, SupportsIndex, Tuple, Union  # noqa: F401

    from benchmarkai.settings import Sink  # noqa: F401

__version__ = "0.2.0"

__all__ = [
    "FifoError",
    "FifoNotCreatedInTimeError",
    "FifoNotReadInTimeError",
    "NotAFifoError",
    "__version__",
    "emit",
]

# emit() is in no module of its own because bai-emit would spend a hundredth of its time to load it.
_sinks = []  # type: List[Sink]


def emit(metrics):
    # type: (Mapping[str, Union[SupportsFloat, SupportsIndex]]) -> None
    """Publish metrics as one line of JSON, such as emit({"alexnet.latency": 0.42}).

    metrics: a mapping of names (text) to finite numbers: int, float, or any scalar that
        converts itself to one of them (numpy, torch, Decimal, ...). A number has no unit of
        its own; put the unit into the name where it is not obvious.

    The line goes to stdout, or to the named pipe if the environment variable BENCHMARK_AI is
    "fifo". All metrics are checked before anything is written.

    Raises TypeError if metrics is not a mapping, a name is not text, or a value is not a
    number; ValueError if there are no metrics, a name is empty, a value is NaN or infinite
    (RFC 8259 has neither), a metric is too long for the pipe, or a setting cannot be used;
    FifoError if the pipe does not accept the metrics within BENCHMARK_AI_FIFO_MAX_WAIT_TIME
    seconds; OSError (IOError on Python 2) if stdout cannot be written.
    """
    if not _sinks:
        _sinks.append(open_sink())
    sink = _sinks[0]  # the first one, even if several threads came here at the same time
    if type(metrics) is dict and not PY2:
        metrics = metrics.copy()  # another thread may add to it
        line = fill_template(metrics, sink.max_line_size)
        if line is not None:
            return sink.write_line(line)
        lines = encode(metrics.items(), sink.max_line_size)
        make_template(metrics)
    else:
        lines = encode(_pairs_of(metrics), sink.max_line_size)
    return sink.write(lines)


def _pairs_of(metrics):
    # type: (Any) -> List[Tuple[Any, Any]]
    # The first two say nothing new, but isinstance() fails for Mapping while the interpreter ends.
    kind = type(metrics)
    if not (issubclass(kind, dict) or Mapping in kind.__mro__ or isinstance(metrics, Mapping)):
        raise TypeError(
            "the metrics are %s, of type %s: give a mapping of names to numbers, such as "
            '{"loss": 0.42}' % (short_repr(metrics), kind.__name__)
        )
    pairs = list(metrics.items())
    # A mapping may repeat a name, as HTTP headers do; a dict of Python 2 may hold one name both
    # as text and as UTF-8.
    check_unique(pairs)
    return pairs
