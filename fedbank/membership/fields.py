"""Values in a document's body. Each function raises ``DocumentError`` if the value is missing or of another form."""

import re
from datetime import datetime
from typing import Any

from fedbank.membership.names import BANK
from fedbank.membership.signed import DocumentError
from fedbank.sealing.keys import PublicKey, SignatureError
from fedbank.sealing.roster import COORDINATOR


def text_of(body: dict[str, Any], name: str, longest: int = 4096) -> str:
    """The text under ``name``.

    Raises:
        DocumentError: it is missing, no text, empty or too long.
    """
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise DocumentError(f"Expected {name} in the file to be a text, got something else. Ask for it again.")
    return value


def matching(body: dict[str, Any], name: str, pattern: str) -> str:
    """The text under ``name``, which matches ``pattern`` as a whole; a bank is never called like the coordinator."""
    value = text_of(body, name)
    if not re.fullmatch(pattern, value) or (pattern == BANK and value == COORDINATOR):
        raise DocumentError(f"Expected a proper {name} in the file, got {value!r:.80}. Ask for it to be sent again.")
    return value


def public_key(body: dict[str, Any], name: str) -> PublicKey:
    """The Ed25519 key under ``name``, 64 hex digits."""
    try:
        return PublicKey.from_hex(text_of(body, name))
    except SignatureError:
        raise DocumentError(f"Expected {name} in the file to be a public key, got another text.") from None


def hex_bytes(body: dict[str, Any], name: str, length: int) -> bytes:
    """``length`` bytes under ``name``; never quoted in an error, since they may be a secret."""
    value = body.get(name)
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", value):
        raise DocumentError(f"Expected {name} in the file to be {2 * length} hex digits, got another text.")
    return bytes.fromhex(value)


def moment(body: dict[str, Any], name: str) -> datetime:
    """The time under ``name``, with its zone."""
    text = text_of(body, name)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise DocumentError(f"Expected {name} in the file to be a time with its zone, got {text!r:.60}.")
    return found
