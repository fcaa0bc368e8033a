"""What HTTP backends share: time-outs, credentials, status codes, and Retry-After."""

import base64
import email.utils
import time
from typing import Any, Optional, Union

from benchmarkai.daemon.backends.base import Rejected, Unavailable
from benchmarkai.daemon.redaction import protect, redact

TIMEOUT = 30  # seconds that a request may take

_MAX_RETRY_AFTER = 3600.0  # seconds

# The request itself is bad. Any other error may end when the server, the database or the
# permissions are repaired.
_REJECTED = (400, 413, 422)


def basic_auth(user: str, password: Optional[str]) -> str:
    """Return the value of the header Authorization, in UTF-8 (RFC 7617).

    The clients' own functions encode it as ASCII or Latin-1, if they can.
    """
    credentials = base64.b64encode(f"{user}:{password or ''}".encode()).decode("ascii")
    protect(credentials)
    return "Basic " + credentials


def error_for(status: int, reason: Any, headers: Any = None) -> Union[None, Unavailable, Rejected]:
    """Return the error that an HTTP status means, or None for success.

    reason: what the server says about it.
    headers: a mapping that ignores case, as those of the clients do.
    """
    if status < 300:
        return None
    # Half a secret would not be found any more.
    message = f"HTTP {status}: {' '.join(redact(str(reason)).split())[:300]}"
    if status in _REJECTED:
        return Rejected(message)
    return Unavailable(message, retry_after(headers))


def retry_after(headers: Any) -> Optional[float]:
    """Return the seconds in a Retry-After header (RFC 9110, 10.2.3), at most an hour, or None."""
    value = (headers or {}).get("Retry-After")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    if seconds != seconds:  # NaN
        return None
    return min(max(0.0, seconds), _MAX_RETRY_AFTER)
