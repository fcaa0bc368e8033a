"""The log of the daemon, on stderr."""

import logging
import time
from typing import Any

from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.redaction import redact

log = logging.getLogger("bai-daemon")

_INTERVAL = 1.0  # seconds between log lines about what was rejected


def log_to_stderr(level: str) -> None:
    """Start to log. level: debug, info, warning or error."""
    handler = logging.StreamHandler()
    formatter = _Formatter("%(asctime)s bai-daemon %(levelname)s: %(message)s")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    log.addHandler(handler)
    log.setLevel(level.upper())
    log.propagate = False
    # What matters in the logs and warnings of the clients is in our own log lines.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.captureWarnings(True)


def count(number: int, noun: str) -> str:
    """Return the number and the noun, such as "1 metric" or "2 metrics"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def count_are(number: int, noun: str) -> str:
    """Return the same with a verb, such as "1 metric is" or "2 metrics are"."""
    return f"{count(number, noun)} {'is' if number == 1 else 'are'}"


class RejectionLog:
    """Logs what is rejected, at most once a second.

    noun: "line" or "metric".
    path: the file in which it is kept.
    """

    def __init__(self, noun: str, path: str, clock: Clock) -> None:
        self._noun = noun
        self._path = path
        self._clock = clock
        self._number = 0  # since the last log line
        self._first = ""
        self._last_logged = float("-inf")

    def add(self, number: int, first: str, reason: str) -> None:
        """Take note of so many that were rejected, the first of which is this for that reason."""
        if not self._number:
            self._first = f"{first}: {reason}"
        self._number += number
        self.flush()

    def flush(self, now: bool = False) -> None:
        """Log what has not been logged yet, if it is time to, or now."""
        due = now or self._clock.monotonic() - self._last_logged >= _INTERVAL
        if self._number and due:
            log.warning(
                "rejected %s%s%s: see %s",
                count(self._number, self._noun),
                ": " if self._number == 1 else ", the first is ",
                self._first,
                self._path,
            )
            self._number = 0
            self._last_logged = self._clock.monotonic()


class _Formatter(logging.Formatter):
    """Puts each message on one line, with its time in UTC. Tracebacks keep their lines.

    It is the last line of defence against secrets in what clients and servers say.
    """

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = redact(record.message)
        return " ".join(super().formatMessage(record).split())

    def formatException(self, ei: Any) -> str:
        return redact(super().formatException(ei))
