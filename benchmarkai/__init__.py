"""Publish the metrics of a benchmark: one line of JSON to stdout or to a named pipe."""

from benchmarkai.emitter import emit
from benchmarkai.errors import (
    FifoError,
    FifoNotCreatedInTimeError,
    FifoNotReadInTimeError,
    NotAFifoError,
)

__version__ = "0.2.0"

__all__ = [
    "FifoError",
    "FifoNotCreatedInTimeError",
    "FifoNotReadInTimeError",
    "NotAFifoError",
    "__version__",
    "emit",
]
