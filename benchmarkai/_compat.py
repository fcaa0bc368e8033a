"""What Python 2.7 needs, and nothing else."""

import os
import sys

PY2 = sys.version_info[0] == 2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union  # noqa: F401

# On Python 2 also unicode and long; on Python 3 the same types twice.
text_types = (str, type(b"".decode("ascii")))
integer_types = (int, type(2**64))

# The Mapping of collections.abc, without the rest of collections: Python's own start has loaded
# these modules.
if PY2:
    from _abcoll import Mapping  # novm
    from thread import _count as thread_count  # novm
    from thread import get_ident  # novm

    def monotonic():
        # type: () -> float
        """Return seconds since a fixed moment. Changes of the date do not affect it.

        Python 2 has no time.monotonic(). POSIX times() returns the real time since an
        arbitrary point in the past, in clock ticks (10 ms on Linux).
        """
        return os.times()[4]

    def decode_utf8(data):
        # type: (bytes) -> unicode
        """Decode UTF-8 strictly. Python 2 alone would accept surrogates.

        RFC 3629 forbids them. Their encoded form starts with ED A0 to ED BF.
        """
        start = data.find(b"\xed")
        while start >= 0:
            if data[start + 1 : start + 2] >= b"\xa0":
                raise UnicodeDecodeError("utf-8", data, start, start + 1, "a surrogate")
            start = data.find(b"\xed", start + 1)
        return data.decode("utf-8")

else:
    from _collections_abc import Mapping  # novm
    from _thread import _count as thread_count  # novm
    from _thread import get_ident  # novm
    from time import monotonic  # novm

    def decode_utf8(data):
        # type: (Union[bytes, bytearray]) -> str
        """Decode UTF-8 strictly."""
        return data.decode("utf-8")


__all__ = [
    "Mapping",
    "PY2",
    "decode_utf8",
    "get_ident",
    "integer_types",
    "monotonic",
    "text_types",
    "thread_count",
]
