"""Node keys in forms that no honest bank sends, for the tests of this folder."""

import base64
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec


def new_node_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _compressed(line: str) -> str:
    """The line with a point that says that it is compressed (SEC 1, section 2.3.3)."""
    kind, text = line.split()
    blob = bytearray(base64.b64decode(text))
    blob[-97] = 2
    return f"{kind} {base64.b64encode(blob).decode()}"


HOSTILE_KEYS: dict[str, Callable[[str], str]] = {
    "compressed": _compressed,
    "of no known kind": lambda line: line.replace("ecdsa-sha2-nistp384", "sk-unheard-of", 1),
    "cut": lambda line: line[:40],
    "empty": lambda line: "",
}
