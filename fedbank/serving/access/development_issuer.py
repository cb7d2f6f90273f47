"""Tokens for a first run on one machine, where there is no identity provider yet. Not for customers.

It has its own key, speaks to loopback addresses only, and marks key ids, issuer and claims so that every other
configuration refuses what it signs.
"""

import ipaddress
import json
import secrets
from datetime import datetime
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import OKPKey

from fedbank.certificates import read_private
from fedbank.durable import write_atomic
from fedbank.errors import ConfigError
from fedbank.serving.access.jwks import DEVELOPMENT_PREFIX, KeySource
from fedbank.serving.access.rights import Role
from fedbank.serving.access.tokens import DEVELOPMENT_CLAIM, DEVELOPMENT_ISSUER, TokenPolicy

KEY_FILE = "development-issuer.pem"
LIFETIME_S = 3600


def check_loopback(host: str) -> None:
    """``ConfigError`` unless ``host`` is a loopback address (127.0.0.0/8 or ::1); names are not resolved."""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ConfigError(
            f"Expected a loopback address (127.0.0.1 or ::1) for the development issuer, got {host!r:.60}. Others "
            "could get tokens from it: set the issuer and the key set of the bank's identity provider."
        )


class DevelopmentIssuer:
    """Signs tokens for whoever asks from this machine."""

    def __init__(self, folder: Path, host: str) -> None:
        """``host``: where the service listens. The key lies in ``folder``, its owner's only; made if missing.

        Raises:
            ConfigError: ``host`` is not a loopback address, or the file holds no such key.
            CertificateError: others may read the key.
        """
        check_loopback(host)
        path = folder / KEY_FILE
        if not path.exists():
            write_atomic(path, OKPKey.generate_key("Ed25519").as_pem(private=True), mode=0o600)
        try:
            self._key = OKPKey.import_key(read_private(path))
        except ValueError:
            raise ConfigError(f"Expected the development issuer's key in {path}, got another. Remove it.") from None
        self._kid = DEVELOPMENT_PREFIX + self._key.thumbprint()

    def policy(self, audience: str) -> TokenPolicy:
        """What accepts these tokens, and no others."""
        return TokenPolicy(DEVELOPMENT_ISSUER, audience, algorithms=("Ed25519",), development=True)

    def keys(self) -> KeySource:
        """The public key, as a verifier wants it."""
        return KeySource(self.key_set, "the development issuer", development=True)

    def key_set(self) -> bytes:
        """The public key as a JSON Web Key Set."""
        key = {**self._key.as_dict(private=False), "kid": self._kid, "use": "sig", "alg": "Ed25519"}
        return json.dumps({"keys": [key]}).encode()

    def token(self, role: Role, subject: str, audience: str, now: datetime, *, peer: str) -> str:
        """A token for an hour; ``peer`` is the address that asks (``ConfigError`` if it is not a loopback one)."""
        check_loopback(peer)
        at = int(now.timestamp())
        claims = {
            "iss": DEVELOPMENT_ISSUER,
            "aud": audience,
            "sub": subject,
            "roles": [role.value],
            "nbf": at,
            "exp": at + LIFETIME_S,
            "jti": secrets.token_urlsafe(12),
            DEVELOPMENT_CLAIM: True,
        }
        return jwt.encode({"alg": "Ed25519", "kid": self._kid}, claims, self._key, ["Ed25519"])
