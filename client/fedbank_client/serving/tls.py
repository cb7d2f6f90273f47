"""The service's own TLS, and mutual TLS where every channel has a certificate."""

import ssl
from pathlib import Path

from fedbank.certificates import CertificateError, read_private
from fedbank.config.schema import TlsConfig


def server_context(tls: TlsConfig) -> ssl.SSLContext | None:
    """TLS 1.2 at least, with the certificate of the settings; ``None`` without one.

    Raises:
        CertificateError: a file is missing, the key is open to others or encrypted, or they do not belong together.
    """
    if tls.certificate is None or tls.key is None:
        return None
    certificate, key = Path(tls.certificate), Path(tls.key)
    read_private(key)  # refused if others can read it; OpenSSL would not mind
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # nobody is there to type one
    except (ssl.SSLError, OSError, ValueError):
        raise CertificateError(
            f"Expected a certificate in {certificate} and its key without a passphrase in {key} (PEM both), got "
            "others, or two that do not belong together."
        ) from None
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except (ssl.SSLError, OSError):
            raise CertificateError(
                f"Expected the certificate of the channels' authority (PEM) in {tls.client_ca}, got none."
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context
