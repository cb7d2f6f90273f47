"""TLS 1.3 between a bank and its coordinator, and in plain words why it failed."""

import ssl
from collections.abc import Callable
from pathlib import Path

from fedbank.certificates import CertificateError, day, read_certificate


def client_context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 with mutual authentication, for a bank; only the consortium's ``authority`` is trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key, password=_no_prompt(key))
    return context


def explain_tls(error: ssl.SSLError, address: str, certificate: Path) -> str:
    """One sentence for a person whose TLS connection to ``address`` failed; ``certificate`` is the own one."""
    code = getattr(error, "verify_code", None)
    if code in _SERVER_FAULTS:
        return f"Expected the certificate of the server at {address} to be {_SERVER_FAULTS[code]}"
    for alert, (why, remedy) in _OWN_FAULTS.items():
        if alert in (error.reason or ""):
            return (
                f"Expected the server at {address} to accept {certificate} ({_validity(certificate)}), got a refusal: "
                f"{why}. {remedy}"
            )
    if error.reason is None:  # it was gone before its alert could be read
        return (
            f"Expected the server at {address} to accept {certificate} ({_validity(certificate)}), got an ended "
            "connection: it refuses this bank, or is another server. Ask the coordinator."
        )
    return f"Expected TLS 1.3 with the server at {address}, got: {error.reason}. Check the address."


_OTHER_ISSUER = (
    "of this consortium's authority, got one of another. Check the address; if it is right, somebody stands between."
)
_SERVER_FAULTS = {
    9: "valid now, got one that is not valid yet. Set this machine's clock.",
    10: "valid now, got one that has expired. Let the coordinator run: fedbank server renew",
    18: _OTHER_ISSUER,
    19: _OTHER_ISSUER,
    20: _OTHER_ISSUER,
    21: _OTHER_ISSUER,
    26: "for a server, got one for something else. Check the address; if it is right, somebody stands between.",
    62: "for that name, got one for another. Check the address, or let the coordinator run: fedbank server renew",
    64: "for that address, got one for another. Check it, or let the coordinator run: fedbank server renew",
}
"""By OpenSSL's X509_V_ERR_* codes (x509_vfy.h)."""
_RENEW = "Ask the coordinator for a new one: fedbank server renew --bank BANK -o PACKAGE"
_OWN_FAULTS = {
    "CERTIFICATE_EXPIRED": ("it has expired", _RENEW),
    "UNKNOWN_CA": ("another authority issued it", "Check that the address is that of this consortium."),
    "CERTIFICATE_REQUIRED": ("none was shown", "Run: fedbank client doctor"),
    "CERTIFICATE_REVOKED": ("the membership ended", "Ask the coordinator why."),
    "ACCESS_DENIED": ("the membership ended", "Ask the coordinator why."),
    "BAD_CERTIFICATE": ("it is not valid at the server's time", "Compare the clocks of both machines."),
}
"""By the alert that the server sends (RFC 8446, 6.2), in OpenSSL's spelling."""


def _validity(path: Path) -> str:
    try:
        certificate = read_certificate(path)
    except CertificateError:
        return "a damaged file"
    return f"valid from {day(certificate.not_valid_before_utc)} to {day(certificate.not_valid_after_utc)}"


def _no_prompt(key: Path) -> Callable[[], str]:
    """A resident process has nobody to type a passphrase; OpenSSL would wait for one."""

    def refuse() -> str:
        raise CertificateError(f"Expected the key {key} without a passphrase, got an encrypted one.")

    return refuse
