"""An identity provider for tests: real keys, and tokens that can be wrong in one place."""

import base64
import hashlib
import hmac
import json
import warnings
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from fedbank.serving.access.jwks import KeySource
from fedbank.serving.access.tokens import TokenPolicy, TokenVerifier

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ISSUER, AUDIENCE = "https://login.bank-a.test", "https://inquiries.bank-a.test"
AT = int(NOW.timestamp())
POLICY = TokenPolicy(ISSUER, AUDIENCE)


@cache
def key_of(kind: str) -> Key:
    """One key for every name, made once."""
    if kind.startswith("rsa"):
        with warnings.catch_warnings(action="ignore"):  # the library says itself that 1024 bits are few
            return RSAKey.generate_key(1024 if kind == "rsa-short" else 2048)
    if kind.startswith("ec"):
        return ECKey.generate_key("P-384" if kind == "ec-384" else "P-256")
    return OKPKey.generate_key("Ed25519")


def public(kind: str, **changed: Any) -> dict[str, Any]:
    """The public JWK of ``key_of(kind)``, its name as ``kid``; ``None`` takes a member out."""
    entry = {**key_of(kind).as_dict(private=False), "kid": kind, "use": "sig"} | changed
    return {name: value for name, value in entry.items() if value is not None}


def key_set(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(entries)}).encode()


def claims(**changed: Any) -> dict[str, Any]:
    """What a good token says; ``None`` takes a claim out."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "zhang.wei", "nbf": AT, "exp": AT + 600, "roles": ["agent"]}
    return {name: value for name, value in (good | changed).items() if value is not None}


def token(kind: str = "ed", alg: str = "Ed25519", header: dict[str, Any] | None = None, **changed: Any) -> str:
    """A token signed by ``key_of(kind)``; ``header`` is laid over the good one."""
    return signed(json.dumps(claims(**changed)).encode(), kind, alg, header)


def signed(payload: bytes, kind: str = "ed", alg: str = "Ed25519", header: dict[str, Any] | None = None) -> str:
    full = {"alg": alg, "kid": kind, "typ": "JWT"} | (header or {})
    full = {name: value for name, value in full.items() if value is not None}
    return sign_raw(json.dumps(full).encode(), payload, key_of(kind), alg)


def sign_raw(header: bytes, payload: bytes, key: Key, alg: str) -> str:
    """A true signature over any header at all: no library writes most of these."""
    start = b64(header) + "." + b64(payload)
    model = jws.JWSRegistry.algorithms[alg]
    return start + "." + b64(model.sign(start.encode(), key))


def hmac_with_public_key(kind: str) -> str:
    """The old trick: HS256 with the public key's PEM as the shared secret."""
    pem = key_of(kind).public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[union-attr]
    start = b64(json.dumps({"alg": "HS256", "kid": kind}).encode()) + "." + b64(json.dumps(claims()).encode())
    return start + "." + b64(hmac.new(pem, start.encode(), hashlib.sha256).digest())


def with_shared_secret() -> str:
    return sign_raw(
        b'{"alg": "HS256", "kid": "ed"}', json.dumps(claims()).encode(), OctKey.import_key("x" * 32), "HS256"
    )


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def verifier(*kinds: str, policy: TokenPolicy = POLICY) -> TokenVerifier:
    """Trusts the public keys of these names (all kinds if none is given)."""
    content = key_set(*(public(kind) for kind in kinds or ("ed", "ec", "rsa")))
    return TokenVerifier(policy, KeySource(lambda: content, "the test"))
