"""Bearer tokens: signed JWTs (RFC 7519) checked as RFC 8725 and RFC 9068 ask, every claim of them required.

A token says who and which role. What it says of its own verification (keys, critical extensions, other types) is never
followed: such a header refuses the token. No message quotes a token.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from joserfc import jws
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jwt import JWTClaimsRegistry
from joserfc.util import urlsafe_b64decode

from fedbank.errors import ConfigError
from fedbank.serving.access.jwks import MAX_KID, KeySource
from fedbank.serving.access.rights import Principal, Role, UnauthorizedError
from fedbank.strict_json import read_object

ALGORITHMS = ("Ed25519", "EdDSA", "ES256", "RS256", "PS256")
"""Signatures with public keys: never ``none``, never a shared secret."""
DEVELOPMENT_ISSUER, DEVELOPMENT_CLAIM = "urn:fedbank:development", "fedbank_development_only"
MAX_TOKEN, _MAX_SUBJECT, _MAX_SKEW_S = 8192, 256, 120
_HEADER = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_REQUIRED = ("aud", "exp", "iss", "nbf", "sub")


class _PinnedRegistry(jws.JWSRegistry):
    """Knows ``ALGORITHMS`` alone, and does not warn of the name EdDSA, which identity providers still use."""

    def get_alg(self, name: str) -> JWSAlgModel:
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError
        return self.algorithms[name]


_PINNED = _PinnedRegistry()


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What a bank accepts. ``role_claim``: the path of the claim with the role, e.g. ("realm_access", "roles").

    ``max_lifetime_s``: between nbf and exp. ``development``: the first run's own issuer, and nobody else.

    Raises:
        ConfigError: an algorithm that is not among ``ALGORITHMS``, an empty name, a skew of more than two minutes, or
            a development issuer where ``development`` is not said.
    """

    issuer: str
    audience: str
    algorithms: tuple[str, ...] = ("Ed25519", "EdDSA", "ES256", "PS256", "RS256")
    role_claim: tuple[str, ...] = ("roles",)
    skew_s: int = 30
    max_lifetime_s: int = 86_400
    development: bool = False

    def __post_init__(self) -> None:
        other = [name for name in self.algorithms if name not in ALGORITHMS]
        if other or not self.algorithms:
            raise ConfigError(f"Expected algorithms among {', '.join(ALGORITHMS)}, got {other}. Leave them out.")
        if not (self.issuer and self.audience and self.role_claim and 0 <= self.skew_s <= _MAX_SKEW_S):
            raise ConfigError(
                f"Expected an issuer, an audience, a role claim and a skew of 0 to {_MAX_SKEW_S} s, got one that is "
                "missing or out of range. Set it."
            )
        if self.issuer.startswith(DEVELOPMENT_ISSUER) != self.development:
            raise ConfigError(
                "Expected the bank's own issuer of tokens, got the development issuer (or the other way round). It is "
                "for a first run on one machine; set the issuer of the bank's identity provider."
            )


class TokenVerifier:
    """Tokens into principals."""

    def __init__(self, policy: TokenPolicy, keys: KeySource) -> None:
        if keys.development != policy.development:
            raise ConfigError("Expected keys and policy both for development or neither, got one. Set the key set.")
        self._policy, self._keys = policy, keys

    def principal(self, token: str, now: datetime) -> Principal:
        """Who the token says its bearer is.

        Raises:
            UnauthorizedError: it is not accepted; the message says what is wrong and quotes nothing.
            KeySetError: there are no keys to verify it with.
        """
        header = self._header(token)
        known = self._keys.key(header["kid"], now)
        if known is None:
            _refuse("a key of the bank's identity provider", "a kid that it does not publish", "kid")
        if header["alg"] not in known.algorithms or header["alg"] not in self._policy.algorithms:
            _refuse("an algorithm that this key and this bank allow", "another", "algorithm")
        try:
            signed = jws.deserialize_compact(token.encode("ascii"), known.key, registry=_PINNED)
            claims = read_object(signed.payload or b"", MAX_TOKEN)
        except (JoseError, ValueError):
            _refuse("a signature by that key over claims in JSON", "something else", "signature")
        return self._checked(claims, now)

    def _header(self, token: str) -> dict[str, str]:
        """The header, before anything of it is believed: one part of three, of known names and plain values."""
        if len(token) > MAX_TOKEN or not token.isascii() or token.count(".") != 2:
            _refuse(f"a signed token in three parts of at most {MAX_TOKEN} characters", "something else", "form")
        try:
            header = read_object(urlsafe_b64decode(token.partition(".")[0].encode()), MAX_TOKEN)
        except (ValueError, TypeError):
            _refuse("a header in JSON", "something else", "form")
        if not header.keys() <= _HEADER:
            _refuse("a header of alg, kid and typ", "one that says more (keys, types, extensions)", "header")
        if not all(isinstance(value, str) for value in header.values()):
            _refuse("a header of plain words", "something else", "header")
        if header.get("alg") not in ALGORITHMS:
            _refuse("a signature with a public key", "another algorithm, or none", "algorithm")
        if not 1 <= len(header.get("kid", "")) <= MAX_KID:
            _refuse("the id of the signing key (kid)", "none", "kid")
        if header.get("typ", "JWT").lower() not in _TYPES:
            _refuse("an access token (typ JWT or at+jwt)", "another type", "type")
        return header

    def _checked(self, claims: dict[str, Any], now: datetime) -> Principal:
        policy = self._policy
        required = JWTClaimsRegistry(
            now=int(now.timestamp()),
            leeway=policy.skew_s,
            iss={"essential": True, "value": policy.issuer},
            aud={"essential": True, "value": policy.audience},
            exp={"essential": True},
            nbf={"essential": True},
            sub={"essential": True},
        )
        try:
            required.validate(claims)
        except ExpiredTokenError:
            _refuse("a token that is valid now", "one that has expired", "expired")
        except (ClaimError, OverflowError) as error:
            claim = error.claim if isinstance(error, ClaimError) else "exp"
            known = claim if claim in (*_REQUIRED, "iat", "jti") else "a required claim"
            _refuse(f"a right claim ({known})", "none, or another value", known if known in _REQUIRED else "claim")
        if claims["exp"] - claims["nbf"] > policy.max_lifetime_s:
            _refuse(f"a token that lives at most {policy.max_lifetime_s} s", "one that lives longer", "lifetime")
        if len(claims["sub"]) > _MAX_SUBJECT or not claims["sub"].isprintable():
            _refuse(f"a subject of at most {_MAX_SUBJECT} printable characters", "another", "sub")
        if (DEVELOPMENT_CLAIM in claims) != policy.development:
            _refuse("a token of the bank's identity provider", "one for development, or the other way round", "issuer")
        return Principal(self._role(claims), policy.issuer, float(claims["exp"]), claims["sub"])

    def _role(self, claims: dict[str, Any]) -> Role:
        value: Any = claims
        for name in self._policy.role_claim:
            value = value.get(name) if isinstance(value, dict) else None
        given = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        roles = {role for role in Role if role.value in given}
        if len(roles) != 1:
            path = ".".join(self._policy.role_claim)
            _refuse(f"one role of this service in the claim {path}", f"{len(roles)}", "role")
        return roles.pop()


def _refuse(expected: str, got: str, reason: str) -> NoReturn:
    raise UnauthorizedError(f"Expected {expected}, got {got}. Get a new token from the identity provider.", reason)
