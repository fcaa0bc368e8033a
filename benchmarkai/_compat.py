"""What Python 2.7 needs, and nothing else."""

import sys

PY2 = sys.version_info[0] == 2

if PY2:
    import os

    text_types = (unicode, str)  # noqa: F821
    integer_types = (int, long)  # noqa: F821

    def monotonic():
        """Seconds since some fixed moment, untouched by changes of the date.

        Python 2 has no time.monotonic(). POSIX times() counts the real time from an
        arbitrary point in the past, in clock ticks (10 ms on Linux).
        """
        return os.times()[4]

else:
    from time import monotonic  # novm

    text_types = (str,)
    integer_types = (int,)

__all__ = ["PY2", "integer_types", "monotonic", "text_types"]
