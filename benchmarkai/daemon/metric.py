"""A metric on its way to a server, and its time as text."""

import datetime
import functools
from typing import Mapping, NamedTuple, Optional, Union

Value = Union[int, float]


class Metric(NamedTuple):
    """A metric that waits for its delivery.

    own_id: its id if it comes from another spool.
    time: when it was read, in nanoseconds since 1970 UTC.
    value: a finite number.
    sequence: its number in the spool, which gives the order.
    spool: the id of the spool.
    """

    own_id: Optional[str]
    time: int
    name: str
    value: Value
    labels: Mapping[str, str]
    sequence: int = 0
    spool: str = ""

    @property
    def id(self) -> str:
        """What is unique to this metric, and the same each time it is sent."""
        return self.own_id or f"{self.spool}-{self.sequence}"


def format_time(nanoseconds: int) -> str:
    """Return a time since 1970 as RFC 3339 has it, in UTC, with all of its nine decimals."""
    seconds, fraction = divmod(nanoseconds, 10**9)
    return f"{_format_seconds(seconds)}.{fraction:09d}Z"


@functools.lru_cache(maxsize=16)  # the metrics of a batch are of few seconds
def _format_seconds(seconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}"
