"""The log of the daemon, on stderr."""

import logging
import time
from typing import Any

from benchmarkai.daemon.redaction import redact

log = logging.getLogger("bai-daemon")


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
