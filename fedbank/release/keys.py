"""How a bank makes its release key known: ``release-key.json``, signed by the key that the roster has of it.

See docs/formats/release-key.md. A release key of its own, so that it can be kept offline while updates are signed.
"""

from collections.abc import Callable
from typing import Any

from fedbank.membership.signed import DocumentError, open_document, write_document
from fedbank.sealing.keys import PublicKey, SignatureError, SigningKey

FORMAT = "fedbank-release-key/1"
NAMED = "release-key.json"
"""In a bank's folder: the document that names its key."""
_NAMES = {"bank", "consortium", "key"}


def write_release_key(bank: str, consortium: str, key: PublicKey, signing_key: SigningKey) -> bytes:
    """The document that names ``key`` as the bank's release key."""
    return write_document(FORMAT, {"bank": bank, "consortium": consortium, "key": key.hex()}, signing_key)


def read_release_key(
    content: bytes, consortium: str, find_key: Callable[[str], PublicKey | None]
) -> tuple[str, PublicKey]:
    """Bank and release key of a document that an active member signed.

    Raises:
        DocumentError: nobody of the roster signed it, or it is about another consortium.
    """

    def signer(body: dict[str, Any]) -> PublicKey:
        if set(body) != _NAMES or not all(isinstance(value, str) for value in body.values()):
            raise DocumentError("Expected a bank's release key, got something else. Ask the bank for release-key.json.")
        found = find_key(body["bank"])
        if found is None or body["consortium"] != consortium:
            raise DocumentError(
                f"Expected the release key of a member of {consortium}, got that of {body['bank']!r:.80} in "
                f"{body['consortium']!r:.80}. Nothing was drafted."
            )
        return found

    body = open_document(content, FORMAT, signer)
    try:
        return body["bank"], PublicKey.from_hex(body["key"])
    except SignatureError as error:
        raise DocumentError("Expected an Ed25519 key as release key, got another. Ask the bank for another.") from error
