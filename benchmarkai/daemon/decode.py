"""Lines from the pipe into metrics, or the reason why they are rejected. Pure functions."""

import itertools
from typing import List, NamedTuple, Sequence, Tuple

from benchmarkai.daemon.metric import Value
from benchmarkai.errors import short_repr
from benchmarkai.jsonlines import parse_object
from benchmarkai.metrics import check
from benchmarkai.templates import PLACE, Templates, parse_numbers, split

Pair = Tuple[str, Value]

# Bytes that are decoded at once.
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
    templates, numbers = split(data)
    values = iter(parse_numbers(numbers))
    names = _names.of_each(templates)
    if None not in names:
        accepted.extend(zip(itertools.chain.from_iterable(names), values))
        return
    for line, template, names_of_line in zip(data.split(b"\n"), templates, names):
        if names_of_line is not None:
            accepted.extend(zip(names_of_line, values))
            continue
        for _ in range(template.count(PLACE)):
            next(values)
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


def _names_of(pairs: Sequence[Pair]) -> Sequence[str]:
    check(pairs)
    return tuple(name for name, _ in pairs)


_names = Templates(_parse, _names_of)
