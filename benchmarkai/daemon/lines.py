"""Lines of the pipe into metrics, or the reason why they are none: pure functions."""

from benchmarkai.metrics import lines, show
from benchmarkai.records import parse_object, plain_objects

_MOST_GLUED = 16  # lines without a newline in between; each takes a look at all before it


def parse_lines(data):
    """Return ([(name, value)], [(line, reason)]) of bytes that are whole lines.

    The lines are those that emit() writes: JSON objects of names and finite numbers. They are
    checked by the same code.
    """
    # What has a backslash may have half a character in a name.
    objects = None if b"\\" in data else plain_objects(data)
    if objects is not None:
        try:
            for pairs in objects:
                lines(pairs)
            return [pair for pairs in objects for pair in pairs], []
        except (TypeError, ValueError):
            pass
    good, refused = [], []
    for line in data.split(b"\n"):
        if line.strip():
            _parse_line(line, good, refused)
    return good, refused


def _parse_line(line, good, refused):
    glued = []
    reason = None
    while line.strip():
        try:
            glued.append(_pairs(line))
            break
        except (TypeError, ValueError) as error:
            reason = str(error)
        # A writer that died within a line of more than PIPE_BUF bytes, or that wrote no newline,
        # leaves something to which the line of another one is glued.
        start = line.rfind(b'{"')
        try:
            if start <= 0 or len(glued) == _MOST_GLUED:
                raise ValueError()
            glued.append(_pairs(line[start:]))
        except (TypeError, ValueError):
            refused.append((line, reason))
            break
        line = line[:start]
    for pairs in reversed(glued):
        good.extend(pairs)


def _pairs(line):
    try:
        pairs = parse_object(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("byte %d is not UTF-8" % (error.start + 1))
    lines(pairs)
    for name, _ in pairs:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("the name %s has half a character (a lone surrogate)" % show(name))
    return pairs
