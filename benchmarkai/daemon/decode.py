"""Lines from the pipe into metrics, or the reason why they are rejected. Pure functions."""

from typing import List, NamedTuple, Sequence, Tuple

from benchmarkai.daemon.metric import Value
from benchmarkai.errors import short_repr
from benchmarkai.jsonlines import parse_object, parse_objects
from benchmarkai.metrics import check

Pair = Tuple[str, Value]

# Bytes that are decoded at once. A bad line makes all lines of its block take longer.
_BLOCK_SIZE = 1 << 16

# The most records that are looked for on one line. Each search reads all of the line before it.
_MAX_RECORDS_PER_LINE = 16


class RejectedLine(NamedTuple):
    line: bytes
    reason: str


def decode(data: bytes) -> Tuple[List[Pair], List[RejectedLine]]:
    """Return the (name, value) pairs, and the rejected lines, of data that is whole lines.

    The lines are what emit() writes: JSON objects of names and finite numbers. The same code
    checks them.
    """
    accepted: List[Pair] = []
    rejected: List[RejectedLine] = []
    data = data.rstrip(b"\n") + b"\n"  # at its end, the pipe is filled with newlines
    start = 0
    while start < len(data):
        end = data.find(b"\n", start + _BLOCK_SIZE) + 1 or len(data)
        _decode_block(data[start:end], accepted, rejected)
        start = end
    return accepted, rejected


def _decode_block(data: bytes, accepted: List[Pair], rejected: List[RejectedLine]) -> None:
    """Append what is on the lines to the lists."""
    # With a backslash in the data, a name may contain a lone surrogate.
    objects = None if b"\\" in data else parse_objects(data)
    if objects is not None:
        try:
            for pairs in objects:
                check(pairs)
            accepted.extend(pair for pairs in objects for pair in pairs)
            return
        except (TypeError, ValueError):
            pass
    for line in data.split(b"\n"):
        if line.strip():
            _decode_line(line, accepted, rejected)


def _decode_line(line: bytes, accepted: List[Pair], rejected: List[RejectedLine]) -> None:
    """Append what is on the line to one of the lists, or to both.

    A writer that was killed within a line of more than PIPE_BUF bytes, or that wrote no newline,
    leaves a fragment to which the next writer's record is glued. The records are taken from the
    end of the line, and the fragment is rejected.
    """
    records: List[Sequence[Pair]] = []
    while line.strip():
        try:
            records.append(_parse(line))
            break
        except (TypeError, ValueError) as error:
            reason = str(error)
        start = line.rfind(b'{"')
        try:
            if start <= 0 or len(records) == _MAX_RECORDS_PER_LINE:
                raise ValueError()
            records.append(_parse(line[start:]))
        except (TypeError, ValueError):
            rejected.append(RejectedLine(line, reason))
            break
        line = line[:start]
    for pairs in reversed(records):
        accepted.extend(pairs)


def _parse(line: bytes) -> Sequence[Pair]:
    try:
        pairs = parse_object(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8") from None
    check(pairs)
    for name, _ in pairs:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(
                f"the name {short_repr(name)} has half a character (a lone surrogate)"
            ) from None
    return pairs
