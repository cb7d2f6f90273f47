"""The first run's own issuer of tokens: for this machine only, and of no use anywhere else."""

import stat
from pathlib import Path

import pytest
from identity_provider import AUDIENCE, ISSUER, NOW, POLICY

from fedbank.certificates import CertificateError
from fedbank.errors import ConfigError
from fedbank.serving.access.development_issuer import KEY_FILE, DevelopmentIssuer
from fedbank.serving.access.jwks import KeySetError, KeySource, read_keys
from fedbank.serving.access.rights import Role, UnauthorizedError
from fedbank.serving.access.tokens import TokenPolicy, TokenVerifier

OTHER_HOSTS = [
    "0.0.0.0",
    "::",
    "10.0.0.7",
    "192.168.1.2",
    "8.8.8.8",
    "localhost",
    "bank-a.test",
    "127.0.0.1.evil.test",
    "2130706433",
    "127.1",
    "0177.0.0.1",
    "::ffff:10.0.0.7",
    "fe80::1",
    "",
]


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_it_starts_on_loopback_addresses_only(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        DevelopmentIssuer(tmp_path, host)
    assert not list(tmp_path.iterdir()), "and makes no key"


@pytest.mark.parametrize("peer", OTHER_HOSTS)
def test_it_gives_no_token_to_another_machine(peer: str, tmp_path: Path) -> None:
    issuer = DevelopmentIssuer(tmp_path, "127.0.0.1")
    with pytest.raises(ConfigError, match="loopback"):
        issuer.token(Role.AGENT, "me", AUDIENCE, NOW, peer=peer)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1"])
@pytest.mark.parametrize("role", Role)
def test_its_tokens_work_with_its_own_policy(host: str, role: Role, tmp_path: Path) -> None:
    issuer = DevelopmentIssuer(tmp_path, host)
    token = issuer.token(role, "me", AUDIENCE, NOW, peer=host)
    again = DevelopmentIssuer(tmp_path, host)  # a restart
    principal = TokenVerifier(again.policy(AUDIENCE), again.keys()).principal(token, NOW)
    assert (principal.role, principal.subject) == (role, "me")
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_nothing_of_it_is_accepted_where_customers_are_served(tmp_path: Path) -> None:
    issuer = DevelopmentIssuer(tmp_path, "127.0.0.1")
    with pytest.raises(KeySetError, match="development issuer"):
        read_keys(issuer.key_set(), "the bank's key set")
    with pytest.raises(ConfigError, match="development"):
        TokenPolicy("urn:fedbank:development", AUDIENCE)
    with pytest.raises(ConfigError, match="development"):
        TokenVerifier(POLICY, issuer.keys())
    renamed = issuer.key_set().replace(b"development-", b"production-")
    token = issuer.token(Role.OPERATOR, "me", AUDIENCE, NOW, peer="127.0.0.1")
    with pytest.raises(UnauthorizedError) as refused:
        TokenVerifier(POLICY, KeySource(lambda: renamed, "a copied key set")).principal(token, NOW)
    assert refused.value.reason == "kid"


def test_the_banks_keys_are_not_taken_for_development(tmp_path: Path) -> None:
    issuer = DevelopmentIssuer(tmp_path, "127.0.0.1")
    renamed = issuer.key_set().replace(b"development-", b"production-")
    with pytest.raises(KeySetError, match="development issuer"):
        KeySource(lambda: renamed, "the test", development=True).key("production", NOW)
    assert issuer.policy(AUDIENCE).issuer != ISSUER


def test_a_key_that_others_could_read_or_that_is_none_is_not_used(tmp_path: Path) -> None:
    DevelopmentIssuer(tmp_path, "127.0.0.1")
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(CertificateError, match="chmod 600"):
        DevelopmentIssuer(tmp_path, "127.0.0.1")
    (tmp_path / KEY_FILE).chmod(0o600)
    (tmp_path / KEY_FILE).write_text("no key")
    with pytest.raises(ConfigError, match="Remove it"):
        DevelopmentIssuer(tmp_path, "127.0.0.1")
