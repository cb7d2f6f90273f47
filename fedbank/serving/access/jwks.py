"""The public keys that tokens are signed with: a JSON Web Key Set (RFC 7517) from a file or over HTTPS.

Keys are fetched when they are needed, kept, and fetched again after a while or when a token names a new one, but
neither often nor for long: whoever sends tokens with invented key ids does not make this service a nuisance.
"""

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey

from fedbank.errors import FedBankError
from fedbank.strict_json import read_object

DEVELOPMENT_PREFIX = "development-"
"""How the ids of a development issuer's keys begin; no other key set may hold one."""
MAX_SET_BYTES, MAX_KEYS, MAX_KID, MIN_RSA_BITS = 1 << 18, 64, 200, 2048
_EDDSA = frozenset({"EdDSA", "Ed25519"})
"""The same under its older name and that of RFC 9864."""
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class KeySetError(FedBankError):
    """A key set that cannot be fetched or used (HTTP 503 while there is none)."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key and the algorithms that it may verify."""

    key: Key
    algorithms: frozenset[str]


def read_keys(content: bytes, said: str, *, development: bool = False) -> dict[str, VerifyingKey]:
    """The signing keys in a JWK set by their ``kid``; ``said`` is where it came from.

    Keys for encryption and of unknown kinds are passed over (RFC 7517, section 5).

    Raises:
        KeySetError: no JWK set, none that can be used, a private or symmetric key, a ``kid`` that is missing or there
            twice, or one of a development issuer where ``development`` is not said.
    """
    found: dict[str, VerifyingKey] = {}
    for entry in _entries(content, said):
        if _PRIVATE & entry.keys():
            raise KeySetError(
                f"Expected public keys only at {said}, got a private or a shared one. Publish the public set; if "
                "others could read this one, make new keys."
            )
        try:
            usable = _verifying_key(entry)
        except (JoseError, ValueError, TypeError, KeyError, OverflowError):  # no key at all
            usable = None
        if usable is None:
            continue
        kid = entry.get("kid")
        if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KID or kid in found:
            raise KeySetError(f"Expected a kid of its own for every key at {said}, got one without or one twice.")
        if kid.startswith(DEVELOPMENT_PREFIX) != development:
            raise KeySetError(
                f"Expected the keys of the bank's identity provider at {said}, got those of a development issuer (or "
                "the other way round). A service that customers reach never trusts a development issuer."
            )
        found[kid] = usable
    if not found:
        raise KeySetError(f"Expected a key that can verify tokens at {said}, got none of a kind that is allowed here.")
    return found


@dataclass(frozen=True, slots=True)
class Freshness:
    """When keys are fetched, in seconds: again after ``refresh``, never within ``pause`` of the last try.

    Keys that were fetched longer than ``stale`` ago are not used.
    """

    refresh: float = 300.0
    pause: float = 10.0
    stale: float = 86_400.0


class KeySource:
    """Keys by ``kid``, from ``fetch``; threads may share it. ``key`` may wait for ``fetch``: not for an event loop."""

    def __init__(
        self,
        fetch: Callable[[], bytes],
        said: str,
        freshness: Freshness | None = None,
        *,
        development: bool = False,
    ) -> None:
        self._fetch, self._said, self.development = fetch, said, development
        self._times = freshness or Freshness()
        self._keys: dict[str, VerifyingKey] = {}
        self._fetched = self._tried = float("-inf")
        self._problem = ""
        self._lock = threading.Lock()

    def key(self, kid: str, now: datetime) -> VerifyingKey | None:
        """The key, or ``None`` if the set has no such key; ``KeySetError`` if there is no set to look into."""
        at = now.timestamp()
        is_known = kid in self._keys
        is_due = not is_known or abs(at - self._fetched) > self._times.refresh
        if is_due and self._lock.acquire(blocking=not is_known):  # whose key is here does not wait for another's fetch
            try:
                if abs(at - self._tried) >= self._times.pause:
                    self._try(at)
            finally:
                self._lock.release()
        if not self._keys or abs(at - self._fetched) > self._times.stale:
            raise KeySetError(self._problem or f"Expected keys from {self._said}, got none yet. Try again in a minute.")
        return self._keys.get(kid)

    def _try(self, at: float) -> None:
        self._tried = at
        try:
            self._keys, self._fetched = read_keys(self._fetch(), self._said, development=self.development), at
        except KeySetError as error:  # the keys that are there stay in use until they are stale
            self._problem = str(error)


def keys_from_file(path: Path, freshness: Freshness | None = None) -> KeySource:
    """The set in ``path``, read again when it is time: a new file takes effect without a restart."""

    def fetch() -> bytes:
        try:
            with path.open("rb") as file:
                return _bounded(file.read(MAX_SET_BYTES + 1), str(path))
        except OSError as error:
            raise KeySetError(f"Expected a key set in {path}, got: {error.strerror}. Name the right file.") from None

    return KeySource(fetch, str(path), freshness)


def keys_from_url(
    url: str, freshness: Freshness | None = None, *, authority: Path | None = None, timeout_s: float = 5.0
) -> KeySource:
    """The set at an HTTPS ``url``; ``authority``: the CA certificates (PEM) to trust instead of the system's.

    No redirect is followed; the whole answer has ``timeout_s`` seconds.

    Raises:
        KeySetError: the URL is not of HTTPS, or ``authority`` cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise KeySetError("Expected an https:// URL of the key set without a password in it, got another. Correct it.")
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError):
        raise KeySetError(f"Expected CA certificates in {authority}, got none. Name the right file.") from None

    def fetch() -> bytes:
        try:
            return _fetched(url, context, timeout_s)
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            raise KeySetError(
                f"Expected the key set at {url}, got: {type(error).__name__}. Look at the identity provider and the "
                "network to it."
            ) from None

    return KeySource(fetch, url, freshness)


def _fetched(url: str, context: ssl.SSLContext, timeout_s: float) -> bytes:
    deadline, content = time.monotonic() + timeout_s, b""
    with (
        httpx.Client(verify=context, timeout=timeout_s, follow_redirects=False, trust_env=False) as client,
        client.stream("GET", url, headers={"Accept": "application/json"}) as answer,
    ):
        if answer.status_code != 200:
            raise KeySetError(f"Expected status 200 from {url}, got {answer.status_code}. Correct the address.")
        for piece in answer.iter_bytes():
            content = _bounded(content + piece, url)
            if time.monotonic() > deadline:
                raise KeySetError(f"Expected the key set at {url} within {timeout_s:g} s, got a slower answer.")
    return content


def _bounded(content: bytes, said: str) -> bytes:
    if len(content) > MAX_SET_BYTES:
        raise KeySetError(f"Expected a key set of at most {MAX_SET_BYTES} bytes at {said}, got more.")
    return content


def _entries(content: bytes, said: str) -> list[dict[str, Any]]:
    try:
        entries = read_object(content, MAX_SET_BYTES).get("keys")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError
    except ValueError:
        raise KeySetError(f"Expected a JSON Web Key Set at {said}, got something else. Correct the address.") from None
    if len(entries) > MAX_KEYS:
        raise KeySetError(f"Expected at most {MAX_KEYS} keys at {said}, got {len(entries)}. Take old ones out.")
    return entries


def _verifying_key(entry: dict[str, Any]) -> VerifyingKey | None:
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        return None
    key = JWKRegistry.import_key(entry.copy())
    algorithms, said = _algorithms(key), entry.get("alg")
    if said is not None:
        algorithms &= _EDDSA if said in _EDDSA else {said}
    return VerifyingKey(key, algorithms) if algorithms else None


def _algorithms(key: Key) -> frozenset[str]:
    """What a key may verify is the key's matter, never the token's (RFC 8725, section 3.1)."""
    if isinstance(key, OKPKey) and key.curve_name == "Ed25519":
        return _EDDSA
    if isinstance(key, ECKey) and key.curve_name == "P-256":
        return frozenset({"ES256"})
    if isinstance(key, RSAKey) and key.public_key.key_size >= MIN_RSA_BITS:
        return frozenset({"RS256", "PS256"})
    return frozenset()
