"""What Python 2.7 needs, and nothing else."""

import os
import sys

PY2 = sys.version_info[0] == 2

# On Python 2 also unicode and long, on Python 3 the same types twice.
text_types = (str, type(b"".decode("ascii")))
integer_types = (int, type(2**64))

if PY2:

    def monotonic():
        """Seconds since some fixed moment, untouched by changes of the date.

        Python 2 has no time.monotonic(). POSIX times() counts the real time from an
        arbitrary point in the past, in clock ticks (10 ms on Linux).
        """
        return os.times()[4]

else:
    from time import monotonic  # novm

__all__ = ["PY2", "integer_types", "monotonic", "text_types"]
