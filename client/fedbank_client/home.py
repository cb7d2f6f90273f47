"""A bank's folder: what lies where, what is pinned from its invitation, and what it knows since it joined.

``bank.yaml`` is written once, by ``fedbank client init``: the bank's name, and the authority and coordinator that it
trusts. Nothing that arrives later can change it.
"""

import json
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedbank.certificates import CertificateError, read_private
from fedbank.durable import write_atomic
from fedbank.errors import ConfigError, RunError, UpdateError
from fedbank.membership.folders import choose_folder, locked
from fedbank.membership.names import BANK, BANK_MEANING, NAME
from fedbank.membership.settings import Settings
from fedbank.membership.terms import ADDRESS, Terms
from fedbank.sealing.keys import PublicKey, SignatureError, SigningKey
from fedbank.sealing.roster import Roster, read_roster
from fedbank.tls import client_context
from fedbank_client.policy import POLICY

BANK_FILE = "bank.yaml"
TRAINING = "training"
"""The part of the folder with the ledger and the finished updates."""
CREATE = "fedbank client init DIR --bank NAME --invitation FILE"
_TEMPLATE = """\
# Whose folder this is, and whom it trusts: from the invitation. Only addresses may ever be changed, if the coordinator
# moves: its certificate and its signatures are checked wherever it is.
bank: {bank}
consortium: {consortium}
addresses: {addresses}
coordinator_key: {key}
"""


@dataclass(frozen=True, slots=True)
class Home:
    """A bank's ``folder`` and what it pinned: addresses are HOST:PORT, ``coordinator_key`` signs rosters and rounds."""

    folder: Path
    bank: str
    consortium: str
    addresses: tuple[str, ...]
    coordinator_key: PublicKey

    @property
    def policy(self) -> Path:
        """What the bank agrees to."""
        return self.folder / POLICY

    @property
    def request(self) -> Path:
        """The join request: public halves only, to send to the coordinator."""
        return self.folder / "request.json"

    @property
    def authority(self) -> Path:
        """The certificate of the consortium's authority."""
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The bank's TLS certificate, from the join package."""
        return self.folder / "client.pem"

    @property
    def roster(self) -> Path:
        """The newest roster that was received."""
        return self.folder / "roster"

    @property
    def terms_file(self) -> Path:
        """The consortium's terms, from the join package; written last."""
        return self.folder / "terms.json"

    @property
    def signing_key(self) -> Path:
        """Ed25519: signs updates."""
        return self.folder / "keys" / "signing.key"

    @property
    def node_key(self) -> Path:
        """NIST P-384 in OpenSSH's private format: Flower's node authentication."""
        return self.folder / "keys" / "node.key"

    @property
    def tls_key(self) -> Path:
        """P-256: the key of the TLS certificate."""
        return self.folder / "keys" / "tls.key"

    @property
    def joined(self) -> bool:
        """Whether a join package was stored, and the bank did not leave since."""
        return self.terms_file.exists() and not self.left

    @property
    def notice(self) -> Path:
        """What the bank signed when it left."""
        return self.folder / "leave-notice.json"

    @property
    def left(self) -> bool:
        """Whether this membership has ended from the bank's side: for ever, whoever comes back makes a new folder."""
        return self.notice.exists()

    def check_here(self) -> None:
        """Say what to do in a folder whose membership has ended.

        Raises:
            RunError: it has.
        """
        if self.left:
            raise RunError(
                f"Expected a bank that is or becomes a member of {self.consortium}, got {self.bank}, which has left. "
                "To come back, ask the coordinator for an invitation and run: fedbank client init NEW --bank "
                f"{self.bank} --invitation FILE --continue {self.folder}"
            )

    @property
    def release_key(self) -> Path:
        """The key that the bank signs releases with, unless it has none or keeps it elsewhere."""
        return self.folder / "keys" / "release.key"

    def secrets(self) -> tuple[Path, ...]:
        """Files that must be their owner's only."""
        kept = (self.release_key,) if self.release_key.exists() else ()
        return self.signing_key, self.node_key, self.tls_key, *kept

    def check_secrets(self) -> None:
        """``CertificateError`` if a key is missing or open to others; OpenSSL would not mind."""
        for path in self.secrets():
            read_private(path)

    def load_signing_key(self) -> SigningKey:
        """The bank's signing key."""
        return SigningKey.load(self.signing_key)

    def load_node_key(self) -> ec.EllipticCurvePrivateKey:
        """The bank's node key, as Flower's fleet connection takes it.

        Raises:
            CertificateError: it is missing, open to others, or no such key.
        """
        content = read_private(self.node_key)
        try:
            key = serialization.load_ssh_private_key(content, None)
        except Exception:  # noqa: BLE001  (a decode boundary: the parser's errors are of many classes)
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise CertificateError(
                f"Expected a P-384 key in OpenSSH format in {self.node_key}, got something else. Restore it."
            )
        return key

    def tls_context(self) -> ssl.SSLContext:
        """TLS 1.3 to the coordinator, with the bank's certificate; only the consortium's authority is trusted.

        Raises:
            CertificateError: a file is missing or open to others, or key and certificate do not belong together.
        """
        read_private(self.tls_key)
        try:
            return client_context(self.authority, self.certificate, self.tls_key)
        except (ssl.SSLError, OSError):
            raise CertificateError(
                f"Expected {self.certificate} and the key {self.tls_key} to belong together, got others. Run: fedbank "
                "client doctor"
            ) from None

    def terms(self) -> Terms:
        """The consortium's terms."""
        return Terms.loads(self.terms_file.read_bytes(), str(self.terms_file))

    def read_roster(self) -> Roster:
        """The newest roster that was received, verified."""
        return read_roster(self.roster.read_bytes(), self.coordinator_key)

    def store_roster(self, content: bytes) -> Roster:
        """Keep a roster that arrived, if the coordinator signed it and it is not older than the one that is kept.

        Raises:
            UpdateError: it is not; nothing was changed.
        """
        with locked(self.folder):
            kept = self.read_roster().sequence if self.roster.exists() else 0
            roster = read_roster(content, self.coordinator_key, kept)
            if roster.consortium != self.consortium:
                raise UpdateError(f"Expected the roster of {self.consortium}, got that of {roster.consortium}.")
            write_atomic(self.roster, content)
        return roster


def find_home(given: Path | None) -> Home:
    """The bank's folder: ``given``, FEDBANK_HOME or the current one."""
    return read_home(choose_folder(given, BANK_FILE, CREATE))


def read_home(folder: Path) -> Home:
    """The bank's folder at ``folder``.

    Raises:
        ConfigError: bank.yaml is damaged; names the key.
    """
    path = folder / BANK_FILE
    values = Settings.read(path, ("bank", "consortium", "addresses", "coordinator_key"))
    try:
        key = PublicKey.from_hex(values.text("coordinator_key"))
    except SignatureError:
        raise ConfigError(f"Expected coordinator_key in {path} to be a public key, got something else.") from None
    return Home(
        folder,
        values.text("bank", BANK, BANK_MEANING),
        values.text("consortium", NAME, "a consortium's name"),
        values.texts("addresses", ADDRESS, "HOST:PORT", least=1),
        key,
    )


def write_home(home: Home, folder: Path) -> None:
    """Write bank.yaml of ``home`` into ``folder``."""
    text = _TEMPLATE.format(
        bank=json.dumps(home.bank),
        consortium=json.dumps(home.consortium),
        addresses=json.dumps(list(home.addresses)),
        key=json.dumps(home.coordinator_key.hex()),
    )
    write_atomic(folder / BANK_FILE, text.encode())
