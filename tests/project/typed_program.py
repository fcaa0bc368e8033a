"""A user's program: mypy --strict accepts it, and refuses the lines that say type: ignore."""

from decimal import Decimal
from fractions import Fraction

from benchmarkai import (
    FifoError,
    FifoNotCreatedInTimeError,
    FifoNotReadInTimeError,
    NotAFifoError,
    __version__,
    emit,
)


def publish(latencies: dict[str, float]) -> str:
    try:
        emit(latencies)
        emit({"batchsize": 16, "latency": 0.42})
        emit({"exact": Decimal("0.42"), "ratio": Fraction(1, 3)})
        emit({"text": "0.42"})  # type: ignore[dict-item]
        emit(0.42)  # type: ignore[arg-type]
    except (FifoNotCreatedInTimeError, FifoNotReadInTimeError, NotAFifoError) as error:
        caught: FifoError = error
        return str(caught)
    return __version__
