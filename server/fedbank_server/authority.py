"""A new consortium: its authority, the server's certificate, the coordinator's signing key and an empty roster."""

import ipaddress
import re
import secrets
from datetime import datetime
from pathlib import Path

from fedbank.certificates import SERVER_AUTH, Authority, load_key, new_key, read_certificate, save_key, to_pem
from fedbank.durable import write_atomic
from fedbank.errors import ConfigError
from fedbank.membership.folders import locked, new_folder
from fedbank.membership.names import NAME
from fedbank.sealing.keys import SigningKey
from fedbank.sealing.roster import Roster, sign_roster
from fedbank_server.consortium import Files, read_consortium, render_settings

DEFAULT_HOSTS = ("localhost", "127.0.0.1")
DEFAULT_PORT = 9443
_SERVER_DAYS = 825
"""The longest that TLS libraries accept (Apple HT210176); ``fedbank server doctor`` warns in time."""
_TOKEN_BYTES = 32
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_MIN_PASSPHRASE = 12


def create_consortium(
    folder: Path, name: str, now: datetime, *, hosts: tuple[str, ...], port: int, passphrase: bytes | None
) -> None:
    """Make ``folder`` with everything a coordinator needs; it appears at once or not at all.

    ``passphrase`` encrypts the authority's key. The coordinator's and the server's keys are for processes that restart
    by themselves, so they are kept by their mode alone.

    Raises:
        ConfigError: a name, host, port or passphrase that cannot be used.
        RunError: ``folder`` exists.
    """
    _check(name, hosts, port, passphrase)
    with new_folder(folder) as building:
        files = Files(building)
        files.certificates.mkdir(mode=0o700)
        authority = Authority.create(name, now)
        save_key(files.authority_key, authority.key, passphrase)
        write_atomic(files.authority, to_pem(authority.certificate))
        coordinator = SigningKey.generate()
        coordinator.save(files.coordinator_key)
        write_atomic(files.coordinator_public, coordinator.public.hex().encode() + b"\n")
        write_atomic(files.operator_token, secrets.token_hex(_TOKEN_BYTES).encode() + b"\n", mode=0o600)
        write_atomic(files.roster, sign_roster(Roster(name, 1, coordinator.public, {}), coordinator))
        write_atomic(files.settings, render_settings(name, hosts, port).encode())
        renew_server(building, authority, now)


def renew_server(folder: Path, authority: Authority, now: datetime) -> tuple[str, ...]:
    """A new key and certificate for the server, for the hosts in consortium.yaml, which are returned."""
    files, hosts = Files(folder), read_consortium(folder).hosts()
    key = new_key()
    certificate = authority.issue(hosts[0], key.public_key(), SERVER_AUTH, now, days=_SERVER_DAYS, hosts=hosts)
    with locked(folder):
        save_key(files.key, key)
        write_atomic(files.certificate, to_pem(certificate))
    return hosts


def load_authority(files: Files, passphrase: bytes | None) -> Authority:
    """The authority, to issue certificates with.

    Raises:
        CertificateError: a file is missing, open to others, damaged, or the passphrase is not the one.
    """
    return Authority(read_certificate(files.authority), load_key(files.authority_key, passphrase))


def _check(name: str, hosts: tuple[str, ...], port: int, passphrase: bytes | None) -> None:
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"Expected a name of at most 63 letters, digits, spaces, dots and hyphens, got {name!r:.80}.")
    for host in hosts:
        if not (_is_address(host) or _HOST.fullmatch(host)):
            raise ConfigError(f"Expected a host name or an IP address, got {host!r:.80}. Give --host without a port.")
    if not 1 <= port <= 65534:
        raise ConfigError(f"Expected a port from 1 to 65534, got {port}. {DEFAULT_PORT} is usual.")
    if passphrase is not None and len(passphrase) < _MIN_PASSPHRASE:
        raise ConfigError(
            f"Expected a passphrase of at least {_MIN_PASSPHRASE} bytes, got {len(passphrase)}. Draw one at random."
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # a scope has no meaning elsewhere
