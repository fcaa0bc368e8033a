"""The bytes of a stream into whole lines, in bounded memory."""

from benchmarkai.jsonlines import MAX_RECORD_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple  # noqa: F401


class LineBuffer(object):
    """Joins the blocks of a stream, and cuts them into lines.

    ends: the bytes that end a line.

    A line of more than MAX_RECORD_SIZE bytes is cut, but stays longer than that.
    """

    def __init__(self, ends=(b"\n",)):
        # type: (Tuple[bytes, ...]) -> None
        self._ends = ends
        self._partial_line = bytearray()

    def feed(self, block):
        # type: (bytes) -> bytes
        """Return the lines that end in this block, each with its end."""
        end = max([block.rfind(end) for end in self._ends]) + 1
        lines = b""
        if end:
            lines = bytes(self._partial_line) + block[:end]
            self._partial_line = bytearray()
        if len(self._partial_line) <= MAX_RECORD_SIZE:
            self._partial_line += block[end:]
        return lines

    def end(self):
        # type: () -> bytes
        """Return the line that ends with the stream, with an end, or nothing."""
        return self.feed(self._ends[0]) if self._partial_line else b""
