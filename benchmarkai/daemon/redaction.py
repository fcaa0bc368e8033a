"""The secrets of this process, and text without them: for the log and the rejected metrics."""

import json
import re
from typing import Dict, Pattern

_MIN_LENGTH = 4  # a shorter secret is found in too many words that have nothing to do with it

_patterns: Dict[str, Pattern[str]] = {}  # what finds a secret, by the secret


def protect(secret: str) -> None:
    """Let redact() replace the secret from now on, and what follows a space, as in "Bearer abc"."""
    # Without its backslashes, of which a repr and JSON add more.
    secret = secret.replace("\\", "")
    for part in (secret, secret.rpartition(" ")[2]):
        if len(part) >= _MIN_LENGTH and part not in _patterns:
            _patterns[part] = re.compile("".join(map(_pattern, part)))


def redact(text: str) -> str:
    """Return the text with *** in place of each secret."""
    # The longest first: it may contain another.
    for secret in sorted(_patterns, key=len, reverse=True):
        text = _patterns[secret].sub("***", text)
    return text


def _pattern(character: str) -> str:
    """Return a pattern for the character in text, in JSON, and in the repr of text or bytes."""
    escaped = (json.dumps(character)[1:-1], ascii(character)[1:-1], ascii(character.encode())[2:-1])
    return r"\\*(?:" + "|".join(map(re.escape, {character, *escaped})) + ")"
