"""The coordinator's folder: what lies where, and consortium.yaml (docs/formats/consortium.md)."""

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from fedbank.errors import ConfigError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.membership.folders import choose_folder
from fedbank.membership.names import NAME
from fedbank.membership.settings import Settings
from fedbank.membership.terms import ADDRESS, TERMS, Terms
from fedbank.sealing.keys import PublicKey, SigningKey
from fedbank.sealing.roster import COORDINATOR

CONSORTIUM = "consortium.yaml"
CREATE = "fedbank server init DIR --name NAME"
_KEYS = ("name", "addresses", "listen", *TERMS)
_LISTEN_KEYS = ("public", "private")
_OWN_HOSTS = ("127.0.0.1", "localhost")

_TEMPLATE = """\
# The consortium, as its coordinator runs it. fedbank server doctor checks this file.
name: {name}

# Where banks reach the server; goes into invitations. Every host must be in the server's certificate.
addresses: {addresses}

# Where the server listens: for banks (mutual TLS), and for operators on this machine (token).
listen:
  public: {public}
  private: {private}

# Updates without which a round changes nothing.
quorum: 2

# A round may take factor times the measured time of its steps, within these bounds in seconds.
deadline:
  factor: 3.0
  floor_s: 120
  ceiling_s: 86400

# SHA-256 of the one base model of this consortium (64 hex digits); null: every campaign names its own.
base_model_digest: null

# Banks whose signatures a release needs; null: more than half of them.
release_threshold: null

# The most that one bank's update counts of a round's average, above 0 and at most 1, whatever size it declares.
# Where too few banks take part for that (two of them at 0.5), all count alike.
max_share: 0.5

# Privacy that campaigns aim at unless they say otherwise. Every bank's own policy wins over it.
plan:
  # target_epsilon: 8.0
  # delta: 1.0e-5
  # unit: customer
"""


@dataclass(frozen=True, slots=True)
class Files:
    """Paths in the coordinator's ``folder``."""

    folder: Path

    @property
    def settings(self) -> Path:
        """consortium.yaml"""
        return self.folder / CONSORTIUM

    @property
    def authority(self) -> Path:
        """The authority's certificate: public, in every invitation."""
        return self.folder / "ca.pem"

    @property
    def authority_key(self) -> Path:
        """Its key: whoever has it (and its passphrase) can issue certificates. Only admit needs it."""
        return self.folder / "ca.key"

    @property
    def certificate(self) -> Path:
        """The server's TLS certificate."""
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        """The key of the server's TLS certificate."""
        return self.folder / "server.key"

    @property
    def coordinator_key(self) -> Path:
        """The Ed25519 key that signs rosters, invitations and rounds."""
        return self.folder / "coordinator.key"

    @property
    def coordinator_public(self) -> Path:
        """Its public half, hexadecimal."""
        return self.folder / "coordinator.pub"

    @property
    def operator_token(self) -> Path:
        """What operators on this machine show to the private listener."""
        return self.folder / "operator.token"

    @property
    def roster(self) -> Path:
        """The signed roster: the authority on who is a member."""
        return self.folder / "roster"

    @property
    def invitations(self) -> Path:
        """Every invitation that was given, without its secret."""
        return self.folder / "invitations.json"

    @property
    def certificates(self) -> Path:
        """Copies of the members' certificates."""
        return self.folder / "certificates"

    def certificate_of(self, bank: str) -> Path:
        """The certificate that ``bank`` was given last."""
        return self.certificates / f"{bank}.pem"

    def secrets(self) -> tuple[Path, ...]:
        """Files that must be their owner's only."""
        return self.authority_key, self.key, self.coordinator_key, self.operator_token

    def public_key(self) -> PublicKey:
        """The coordinator's public key."""
        return PublicKey.from_hex(self.coordinator_public.read_text("ascii").strip())


@dataclass(frozen=True, slots=True)
class Consortium:
    """What consortium.yaml says. Addresses are HOST:PORT."""

    name: str
    addresses: tuple[str, ...]
    public: str
    private: str
    terms: Terms

    def hosts(self) -> tuple[str, ...]:
        """The hosts of ``addresses``, each once."""
        return tuple(dict.fromkeys(host_of(address) for address in self.addresses))


def find_folder(given: Path | None) -> Path:
    """The coordinator's folder: ``given``, FEDBANK_HOME or the current one."""
    return choose_folder(given, CONSORTIUM, CREATE)


def read_consortium(folder: Path) -> Consortium:
    """The settings in ``folder``.

    Raises:
        ConfigError: names the file and the key.
    """
    values = Settings.read(Files(folder).settings, _KEYS)
    listen = values.section("listen", _LISTEN_KEYS)
    meaning, private = "HOST:PORT", listen.text("private", ADDRESS, "HOST:PORT")
    if host_of(private) not in _OWN_HOSTS:
        raise ConfigError(
            f"Expected listen.private in {Files(folder).settings} to be on {_OWN_HOSTS[0]}, where alone operators are "
            f"served, got {private:.80}. From another machine use: ssh -L PORT:{_OWN_HOSTS[0]}:PORT HOST"
        )
    return Consortium(
        values.text("name", NAME, "a name of at most 63 letters, digits, spaces, dots and hyphens"),
        values.texts("addresses", ADDRESS, meaning, least=1),
        listen.text("public", ADDRESS, meaning),
        private,
        Terms.from_settings(values),
    )


def note(files: Files, name: str, key: SigningKey, action: str, about: str, result: str) -> None:
    """Put what the operator did in the consortium ``name`` into the coordinator's log of evidence, before it is done.

    Raises:
        EvidenceError: it cannot be written, and so must not be done.
    """
    with EvidenceLog(files.folder / EVIDENCE, origin(name, COORDINATOR), key) as evidence:
        evidence.append(action, about, result, COORDINATOR)


def render_settings(name: str, hosts: tuple[str, ...], port: int) -> str:
    """A new consortium.yaml with its comments. A server that others reach listens on every interface."""
    everywhere = "127.0.0.1" if all(map(_is_loopback, hosts)) else "0.0.0.0"
    addresses = json.dumps([f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts])
    return _TEMPLATE.format(
        name=json.dumps(name), addresses=addresses, public=f"{everywhere}:{port}", private=f"127.0.0.1:{port + 1}"
    )


def host_of(address: str) -> str:
    """HOST of HOST:PORT, an IPv6 address without its brackets."""
    return address.rpartition(":")[0].strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
