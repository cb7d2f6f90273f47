"""Small documents that people send each other by mail, each signed by the one who wrote it.

``{"body":{…},"format":F,"signature":HEX}`` in canonical JSON (``fedbank.sealing.canonical``): Ed25519 (RFC 8032) over
``"fedbank document\\n" F "\\n"`` and the canonical bytes of the body. See docs/formats/invitation.md.
"""

from collections.abc import Callable
from typing import Any

from fedbank.errors import FedBankError
from fedbank.sealing.canonical import canonical, read_canonical
from fedbank.sealing.keys import PublicKey, SignatureError, SigningKey

MAX_DOCUMENT = 256 * 1024
_NAMES = {"format", "body", "signature"}


class DocumentError(FedBankError):
    """An invitation, request, package or notice that is damaged, edited, too old or meant for somebody else."""


def write_document(format: str, body: dict[str, Any], key: SigningKey) -> bytes:
    """The document with ``body`` under ``format``, signed by ``key``."""
    signature = key.sign(to_sign(format, body)).hex()
    return canonical({"format": format, "body": body, "signature": signature}) + b"\n"


def open_document(content: bytes, format: str, find_key: Callable[[dict[str, Any]], PublicKey]) -> dict[str, Any]:
    """The body of a document of ``format`` that the key which ``find_key`` says (given the body) has signed.

    Raises:
        DocumentError: no such document, or another or no valid signature.
    """
    kind = format.partition("/")[0].removeprefix("fedbank-").replace("-", " ")
    document = _parse(content)
    if document is None:
        raise DocumentError(f"Expected a whole {kind} file, got a damaged or foreign one. Ask for it to be sent again.")
    if document["format"] != format:
        raise DocumentError(
            f"Expected a file of format {format}, got {document['format']!r:.60}. Check which file it is."
        )
    body: dict[str, Any] = document["body"]
    try:
        find_key(body).verify(bytes.fromhex(document["signature"]), to_sign(format, body))
    except (SignatureError, ValueError):
        raise DocumentError(
            f"Expected the signature of whoever wrote this {kind}, got another: the file was changed on its way, or "
            "somebody else wrote it. Ask its sender, over a second channel, to send it again."
        ) from None
    return body


def to_sign(format: str, body: dict[str, Any]) -> bytes:
    """The bytes that a signature of ``body`` covers."""
    return f"fedbank document\n{format}\n".encode() + canonical(body)


def _parse(content: bytes) -> dict[str, Any] | None:
    """``None`` for anything but the three parts. Mail programs add line ends, nothing else may differ."""
    if len(content) > MAX_DOCUMENT:
        return None
    try:
        document = read_canonical(content.strip())
    except ValueError:
        return None
    whole = set(document) == _NAMES and isinstance(document["body"], dict) and isinstance(document["signature"], str)
    return document if whole else None
