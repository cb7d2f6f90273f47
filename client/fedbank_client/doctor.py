"""Is a bank's folder in order, and does it reach the coordinator? Looks only; changes nothing."""

from collections.abc import Callable, Iterator
from datetime import datetime

from fedbank.certificates import CLIENT_AUTH, CertificateError, check_certificate, has_key, load_key, read_certificate
from fedbank.errors import FedBankError
from fedbank.membership.health import FAIL, OK, WARN, Finding, attempt, clock, disk, expiry, private, versions
from fedbank.release.health import standing
from fedbank_client.home import TRAINING, Home
from fedbank_client.policy import POLICY, read_policy
from fedbank_client.release_home import ReleaseHome
from fedbank_client.standing import why_stopped

_RENEW = "Ask the coordinator for a new one: fedbank server renew --bank {bank} -o PACKAGE"


def examine(home: Home, now: Callable[[], datetime], *, reach: bool = True) -> Iterator[Finding]:
    """Every finding about the bank's folder; ``reach=False`` leaves out the connection to the coordinator.

    Of a bank that has left there is only its signing key and what it knows.
    """
    if home.left:
        yield from private((home.signing_key,), home.folder)
        yield attempt("signing.key", lambda: f"public key {home.load_signing_key().public.hex()}")
        yield Finding(OK, "membership", f"{home.bank} has left {home.consortium}; {home.notice} says so")
        return
    yield from private(home.secrets(), home.folder)
    yield attempt("signing.key", lambda: f"public key {home.load_signing_key().public.hex()}")
    yield attempt("node.key", lambda: f"P-384, {home.load_node_key().key_size} bits")
    yield from _policy(home)
    yield _standing(home)
    if home.joined:
        yield from _certificate(home, now())
        yield attempt("roster", lambda: _membership(home))
        if reach:
            yield from _server(home, now)
    else:
        yield Finding(WARN, "membership", f"Not joined. Send {home.request} and run: fedbank client join PACKAGE")
    yield from _releases(home, now())
    yield disk(home.folder)
    yield from versions("fedbank", "flwr", "torch")
    yield _gpu()


def _policy(home: Home) -> Iterator[Finding]:
    try:
        for warning in read_policy(home.policy).warnings():
            yield Finding(WARN, POLICY, warning)
        yield Finding(OK, POLICY, "understood")
    except FedBankError as error:
        yield Finding(FAIL, POLICY, str(error))


def _standing(home: Home) -> Finding:
    """Whether the bank may train, as far as its ledger and its identity go."""
    reason = why_stopped(home.folder / TRAINING)
    return Finding(FAIL, TRAINING, reason) if reason else Finding(OK, TRAINING, "not stopped")


def _certificate(home: Home, now: datetime) -> Iterator[Finding]:
    try:
        authority, own = read_certificate(home.authority), read_certificate(home.certificate)
        check_certificate(authority, str(home.authority), authority=authority, usage=None, name=None, now=now)
        check_certificate(own, str(home.certificate), authority=authority, usage=CLIENT_AUTH, name=home.bank, now=now)
        if not has_key(own, load_key(home.tls_key)):
            raise CertificateError(f"Expected {home.certificate} to be for the key {home.tls_key}, got another.")
        yield expiry(home.certificate.name, own.not_valid_after_utc, now, _RENEW.format(bank=home.bank))
    except FedBankError as error:
        yield Finding(FAIL, home.certificate.name, f"{error} {_RENEW.format(bank=home.bank)}")


def _membership(home: Home) -> str:
    active = home.read_roster().active()
    if home.bank not in active:
        raise CertificateError(
            f"Expected {home.bank} to be a member, got a roster without it. Ask the coordinator why."
        )
    return f"signed, {len(active)} members"


def _server(home: Home, now: Callable[[], datetime]) -> Iterator[Finding]:
    try:
        context = home.tls_context()
    except FedBankError:
        return  # told above
    for address in home.addresses:
        yield clock(address, context, home.certificate, now)


def _releases(home: Home, now: datetime) -> Iterator[Finding]:
    kept = ReleaseHome(home)
    if not kept.root.exists():
        yield Finding(OK, "releases", "none are followed: no first root is trusted yet")
        return
    try:
        adopted, trusted = kept.adopted(), kept.trusted()
        shown = f"{adopted.release} is adopted since {adopted.since[:10]}" if adopted else "none is adopted"
        yield Finding(OK, "releases", shown)
        if trusted.root is not None:
            remedy = "Run: fedbank client sync; if it fails for days, ask the coordinator and another member"
            yield from standing(trusted.root, trusted.targets, kept.trust / "timestamp.json", now, remedy)
    except FedBankError as error:
        yield Finding(FAIL, "releases", str(error))


def _gpu() -> Finding:
    try:
        import torch  # takes seconds to load, and may be broken
    except (ImportError, OSError) as error:
        return Finding(FAIL, "torch", f"Expected PyTorch to load, got: {error}. Run: python deploy/install_torch.py")
    if not torch.cuda.is_available():
        return Finding(OK, "gpu", "none: training runs on the CPU")
    return Finding(OK, "gpu", f"{torch.cuda.get_device_name(0)}, {torch.cuda.mem_get_info(0)[0] / 1e9:.1f} GB free")
