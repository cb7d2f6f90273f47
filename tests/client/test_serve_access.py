"""Who is let in by the settings: the bank's identity provider with its claims, or the development issuer."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
from identity_provider import AUDIENCE, ISSUER, NOW, key_set, public, token

from fedbank.config import load_serve
from fedbank.errors import ConfigError, FedBankError
from fedbank.serving.access.jwks import KeySetError
from fedbank.serving.access.rights import Role, UnauthorizedError
from fedbank.serving.access.tokens import TokenVerifier
from fedbank_client.serving.wiring import access_of


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(public("ed"), public("ec")))
    return path


def verifier(tmp_path: Path, keys: Path | str, *more: str) -> TokenVerifier:
    words = ["access=provider", f"access.issuer={ISSUER}", f"access.audience={AUDIENCE}", f"access.jwks={keys}"]
    found, development = access_of(load_serve([*words, "host=0.0.0.0", *more]), tmp_path)
    assert development is None
    return found


def test_tokens_of_the_named_provider_are_taken_and_no_others(tmp_path: Path, keys: Path) -> None:
    found = verifier(tmp_path, keys)
    assert found.principal(token(), NOW).role is Role.AGENT
    for wrong in ({"iss": "https://another"}, {"aud": "another"}, {"sub": None}):
        with pytest.raises(UnauthorizedError):
            found.principal(token(**wrong), NOW)


def test_the_role_is_where_the_settings_say(tmp_path: Path, keys: Path) -> None:
    found = verifier(tmp_path, keys, "access.role_claim=realm_access.roles")
    nested = token(roles=None, realm_access={"roles": ["auditor"]})
    assert found.principal(nested, NOW).role is Role.AUDITOR
    with pytest.raises(UnauthorizedError):
        found.principal(token(), NOW)


def test_algorithms_that_the_settings_leave_out_are_refused(tmp_path: Path, keys: Path) -> None:
    signed = token("ec", "ES256")
    assert verifier(tmp_path, keys).principal(signed, NOW).role is Role.AGENT
    with pytest.raises(UnauthorizedError):
        verifier(tmp_path, keys, "access.algorithms=[Ed25519]").principal(signed, NOW)
    with pytest.raises(ConfigError, match="Expected algorithms among"):
        verifier(tmp_path, keys, "access.algorithms=[none]")


@pytest.mark.parametrize("named", ["http://login/keys", "https://user:word@login/keys"])
def test_keys_come_over_tls_without_a_password_or_from_a_file(tmp_path: Path, named: str) -> None:
    with pytest.raises(KeySetError, match="Expected an https://"):
        verifier(tmp_path, named)


def test_a_file_without_keys_is_told_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{}")
    with pytest.raises(FedBankError, match="Expected a JSON Web Key Set"):
        verifier(tmp_path, path)


def test_the_development_issuer_takes_its_own_tokens_and_no_providers(tmp_path: Path) -> None:
    found, development = access_of(load_serve([]), tmp_path)
    assert development is not None
    own = development.issuer.token(Role.AGENT, "Ms Chen", development.audience, NOW, peer="127.0.0.1")
    assert found is not None and found.principal(own, NOW).subject == "Ms Chen"
    with pytest.raises(UnauthorizedError):
        found.principal(token(), NOW)
    with pytest.raises(ConfigError, match="loopback"):
        access_of(load_serve(["host=0.0.0.0"]), tmp_path)
