"""What the backends for AWS share."""

from typing import Any

from benchmarkai.daemon.redaction import protect


def current_credentials(credentials: Any) -> Any:
    """Return what credentials of boto3 are now, and protect their secrets.

    Those of a role change every few hours.
    """
    current = credentials.get_frozen_credentials()
    for secret in (current.secret_key, current.token):
        protect(secret or "")
    return current
