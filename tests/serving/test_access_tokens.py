"""Which bearer tokens a bank's service accepts, and every way in which one is turned away."""

import json
from dataclasses import replace
from typing import Any

import pytest
from identity_provider import (
    AT,
    AUDIENCE,
    NOW,
    POLICY,
    b64,
    claims,
    hmac_with_public_key,
    key_of,
    public,
    sign_raw,
    signed,
    token,
    verifier,
    with_shared_secret,
)

from fedbank.errors import ConfigError
from fedbank.serving.access.jwks import KeySource
from fedbank.serving.access.rights import Role, UnauthorizedError
from fedbank.serving.access.tokens import MAX_TOKEN, TokenPolicy, TokenVerifier

GOOD = {
    "Ed25519": token(),
    "Ed25519 under its older name": token(alg="EdDSA"),
    "ES256": token("ec", "ES256"),
    "RS256": token("rsa", "RS256"),
    "PS256": token("rsa", "PS256"),
    "an access token of RFC 9068": token(header={"typ": "at+jwt"}),
    "no type": token(header={"typ": None}),
    "a certificate's hash beside the key": token(header={"x5t": "abc"}),
    "one of several audiences": token(aud=["https://other.test", AUDIENCE]),
    "a role as one word": token(roles="agent"),
    "roles of other services beside": token(roles=["mail-user", "agent"]),
    "expired within the skew": token(nbf=AT - 600, exp=AT - 20),
    "not yet valid within the skew": token(nbf=AT + 20),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_token_says_who_and_which_role(name: str) -> None:
    principal = verifier().principal(GOOD[name], NOW)
    assert (principal.role, principal.subject) == (Role.AGENT, "zhang.wei")


def _unsigned(alg: str) -> str:
    return b64(json.dumps({"alg": alg, "kid": "ed"}).encode()) + "." + b64(json.dumps(claims()).encode()) + "."


def _header(text: bytes) -> str:
    return sign_raw(text, json.dumps(claims()).encode(), key_of("ed"), "Ed25519")


def _promoted(good: str) -> str:
    header, _, signature = good.split(".")
    return f"{header}.{b64(json.dumps(claims(roles=['operator'])).encode())}.{signature}"


OWN_KEY = {"jwk": public("mallory")}
ATTACKS: dict[str, tuple[str, str]] = {
    "alg none": (_unsigned("none"), "algorithm"),
    "alg None": (_unsigned("None"), "algorithm"),
    "alg missing": (_header(b'{"kid": "ed"}'), "algorithm"),
    "HS256 with the public key as the secret": (hmac_with_public_key("rsa"), "algorithm"),
    "HS256 with a secret": (with_shared_secret(), "algorithm"),
    "an algorithm that the key is not for": (token("rsa", "RS256", {"kid": "ec"}), "algorithm"),
    "RS512, which is not pinned": (token("rsa", "RS512"), "algorithm"),
    "ES384 over a key of another curve": (token("ec-384", "ES384", {"kid": "ec"}), "algorithm"),
    "Ed25519 said, RSA signed": (token("rsa", "PS256", {"alg": "Ed25519", "kid": "ed"}), "signature"),
    "another key under a known kid": (token("mallory", header={"kid": "ed"}), "signature"),
    "a kid that nobody has": (token("mallory"), "kid"),
    "no kid": (token(header={"kid": None}), "kid"),
    "an empty kid": (token(header={"kid": ""}), "kid"),
    "a kid like a path": (token(header={"kid": "../../dev/null"}), "kid"),
    "a kid that is a list": (token(header={"kid": ["ed"]}), "header"),
    "a huge kid": (token(header={"kid": "k" * 3000}), "kid"),
    "two kids in one header": (_header(b'{"alg": "Ed25519", "kid": "mallory", "kid": "ed"}'), "form"),
    "its own key in the header (jwk)": (token("mallory", header=OWN_KEY | {"kid": "ed"}), "header"),
    "its own key set (jku)": (token(header={"jku": "https://evil.test/jwks"}), "header"),
    "its own certificate (x5c)": (token(header={"x5c": ["MIIB"]}), "header"),
    "its own certificate's address (x5u)": (token(header={"x5u": "https://evil.test/c"}), "header"),
    "a critical extension": (token(header={"crit": ["exp"], "exp": 1}), "header"),
    "a payload that is not encoded (b64)": (token(header={"crit": ["b64"], "b64": False}), "header"),
    "a compressed one (zip)": (token(header={"zip": "DEF"}), "header"),
    "a signed token within (nested)": (signed(token().encode(), header={"cty": "JWT"}), "header"),
    "a signed token within, not said so": (signed(token().encode()), "signature"),
    "an identity token's type": (token(header={"typ": "logout+jwt"}), "type"),
    "encrypted, in five parts": (token() + ".a.b", "form"),
    "in JSON": (json.dumps({"payload": "x", "signatures": []}), "form"),
    "two parts": (token().rpartition(".")[0], "form"),
    "empty": ("", "form"),
    "dots": ("..", "form"),
    "not ASCII": (token() + "ü", "form"),
    "huge": (token(note="x" * MAX_TOKEN), "form"),
    "a header that is a list": (_header(b"[]"), "form"),
    "a header nested deep": (_header(b'{"alg":' + b"[" * 2000), "form"),
    "another role under the old signature": (_promoted(token()), "signature"),
    "no signature": (token().rpartition(".")[0] + ".", "signature"),
    "claims that are not JSON": (signed(b"hello"), "signature"),
    "claims that are a list": (signed(b"[]"), "signature"),
    "a claim there twice": (signed(json.dumps(claims()).encode()[:-1] + b', "sub": "admin"}'), "signature"),
    "expires at NaN": (signed(json.dumps(claims(exp=float("nan"))).encode()), "signature"),
    "expired": (token(nbf=AT - 600, exp=AT - 31), "expired"),
    "expires never": (token(exp=None), "exp"),
    "expires at a text": (token(exp="tomorrow"), "exp"),
    "expires true": (token(exp=True), "exp"),
    "expires at infinity": (
        signed(json.dumps(claims()).encode().replace(str(AT + 600).encode(), b"1e999")),
        "signature",
    ),
    "not yet valid": (token(nbf=AT + 31), "nbf"),
    "valid from no time": (token(nbf=None), "nbf"),
    "issued in the future": (token(iat=AT + 600), "claim"),
    "lives for years": (token(exp=AT + 10**8), "lifetime"),
    "another audience": (token(aud="https://other.test"), "aud"),
    "an audience that begins like ours": (token(aud=AUDIENCE + ".evil.test"), "aud"),
    "no audience": (token(aud=None), "aud"),
    "an audience that is a number": (token(aud=7), "aud"),
    "another issuer": (token(iss="https://login.bank-b.test"), "iss"),
    "an issuer with a slash more": (token(iss="https://login.bank-a.test/"), "iss"),
    "a list of issuers": (token(iss=["https://login.bank-a.test"]), "iss"),
    "no issuer": (token(iss=None), "iss"),
    "no subject": (token(sub=None), "sub"),
    "an empty subject": (token(sub=""), "sub"),
    "a subject that is a number": (token(sub=7), "sub"),
    "a subject with a line break": (token(sub="zhang\nwei"), "sub"),
    "a huge subject": (token(sub="z" * 257), "sub"),
    "no role": (token(roles=None), "role"),
    "a role of no one": (token(roles=["admin"]), "role"),
    "two roles": (token(roles=["agent", "operator"]), "role"),
    "a role in the wrong claim": (token(roles=None, role="operator"), "role"),
    "a role in the scope": (token(roles=None, scope="agent"), "role"),
    "a role in another case": (token(roles=["Agent"]), "role"),
    "a role with a space": (token(roles="agent mail-user"), "role"),
    "a role in an object": (token(roles={"agent": True}), "role"),
    "a development token": (token(fedbank_development_only=True), "issuer"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_bad_token_is_turned_away_for_its_own_reason(name: str) -> None:
    attack, reason = ATTACKS[name]
    with pytest.raises(UnauthorizedError) as refused:
        verifier().principal(attack, NOW)
    assert refused.value.reason == reason
    said = str(refused.value)
    assert said.startswith("Expected ") and ", got " in said
    assert not any(word in said for word in ("zhang", "mallory", "evil", "eyJ")), "no message quotes a token"


def test_a_token_with_any_one_character_changed_is_refused_or_says_the_same() -> None:
    good, judge = token(), verifier("ed")
    principal, refused = judge.principal(good, NOW), 0
    for at in range(len(good)):
        for char in {"A", "_", ".", "=", "{", good[at].swapcase()} - {good[at]}:
            try:
                assert judge.principal(good[:at] + char + good[at + 1 :], NOW) == principal
            except UnauthorizedError:
                refused += 1
    assert refused > 5 * len(good) * 0.8


def test_a_token_that_is_good_now_is_not_for_ever() -> None:
    assert verifier().principal(token(), NOW)
    for seconds, reason in ((631, "expired"), (-31, "nbf")):
        with pytest.raises(UnauthorizedError) as refused:
            verifier().principal(token(), NOW.fromtimestamp(AT + seconds, NOW.tzinfo))
        assert refused.value.reason == reason


def test_the_bank_may_allow_fewer_algorithms_than_its_keys() -> None:
    only = verifier(policy=replace(POLICY, algorithms=("ES256",)))
    assert only.principal(token("ec", "ES256"), NOW)
    with pytest.raises(UnauthorizedError, match="algorithm"):
        only.principal(token("rsa", "RS256"), NOW)


def test_a_role_can_lie_deeper_in_the_claims() -> None:
    deep = verifier(policy=replace(POLICY, role_claim=("realm_access", "roles")))
    assert deep.principal(token(realm_access={"roles": ["auditor"]}), NOW).role is Role.AUDITOR
    for shallow in (token(), token(realm_access=["auditor"]), token(realm_access={"roles": {"auditor": 1}})):
        with pytest.raises(UnauthorizedError, match=r"realm_access\.roles"):
            deep.principal(shallow, NOW)


WRONG_POLICIES: dict[str, dict[str, Any]] = {
    "alg none": {"algorithms": ("none",)},
    "a shared secret": {"algorithms": ("ES256", "HS256")},
    "no algorithm": {"algorithms": ()},
    "no audience": {"audience": ""},
    "no issuer": {"issuer": ""},
    "no role claim": {"role_claim": ()},
    "a skew of an hour": {"skew_s": 3600},
    "the development issuer": {"issuer": "urn:fedbank:development"},
    "development with the bank's issuer": {"development": True},
}


@pytest.mark.parametrize("name", WRONG_POLICIES)
def test_a_policy_that_would_let_others_in_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="Expected "):
        replace(POLICY, **WRONG_POLICIES[name])


def test_keys_for_development_never_verify_for_customers() -> None:
    keys = KeySource(lambda: b"", "the test", development=True)
    with pytest.raises(ConfigError, match="development"):
        TokenVerifier(TokenPolicy("https://login.test", "us"), keys)
