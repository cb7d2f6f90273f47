"""What ``doctor`` looks at on both sides: one finding a line, with what to do about it."""

import shutil
import socket
import ssl
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedbank.command_line import print_json, say
from fedbank.errors import FedBankError
from fedbank.tls import explain_tls

OK, WARN, FAIL = "ok", "warn", "fail"
_WARN_DISK, _FAIL_DISK = 5 << 30, 200 << 20
_SOON = timedelta(days=30)
_MAX_AHEAD_S, _MAX_BEHIND_S = 4.0, 240.0
"""Flower 1.41 takes signatures that are from 5 s ahead to 305 s old; a Date header is up to a second old."""
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """``level`` is ok, warn or fail; ``message`` says what to do unless it is ok."""

    level: str
    subject: str
    message: str


def attempt(subject: str, check: Callable[[], str]) -> Finding:
    """What ``check`` says if it goes well; what it raises otherwise."""
    try:
        return Finding(OK, subject, check())
    except FedBankError as error:
        return Finding(FAIL, subject, str(error))
    except OSError as error:
        return Finding(FAIL, subject, f"Expected to read a file, got: {error.strerror or error}.")


def expiry(subject: str, ends: datetime, now: datetime, remedy: str) -> Finding:
    """A certificate that ends within 30 days is a warning."""
    if ends - now > _SOON:
        return Finding(OK, subject, f"valid until {ends:%Y-%m-%d}")
    return Finding(WARN, subject, f"Expires {ends:%Y-%m-%d}. {remedy}")


def private(paths: Iterable[Path], folder: Path) -> list[Finding]:
    """Every path must be there and its owner's only, and the folder as well."""
    found = []
    for path in (folder, *paths):
        if not path.exists():
            found.append(Finding(FAIL, path.name, f"Expected a file at {path}, got none. Restore it from a backup."))
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        right = "700" if path.is_dir() else "600"
        if mode & 0o077:
            found.append(
                Finding(FAIL, path.name, f"Others can read {path} (mode {mode:04o}). Run: chmod {right} {path}")
            )
        else:
            found.append(Finding(OK, path.name, f"mode {mode:04o}"))
    return found


def disk(folder: Path) -> Finding:
    """Free space where the folder lies."""
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free"
    if free < _FAIL_DISK:
        return Finding(FAIL, "disk", f"Only {text} at {folder}: a round may not be kept. Free space.")
    return (
        Finding(OK, "disk", text) if free >= _WARN_DISK else Finding(WARN, "disk", f"{text} at {folder}. Free space.")
    )


def versions(*packages: str) -> list[Finding]:
    """The versions of Python and ``packages``."""
    found = [Finding(OK, "python", sys.version.split()[0])]
    for package in packages:
        try:
            found.append(Finding(OK, package, version(package)))
        except PackageNotFoundError:
            found.append(
                Finding(FAIL, package, f"Expected {package} to be installed, got none. Install FedBank again.")
            )
    return found


def clock(address: str, context: ssl.SSLContext, certificate: Path, now: Callable[[], datetime]) -> Finding:
    """This machine's clock against the server's ``Date`` (RFC 9110, 6.6.1), over mutual TLS.

    A server that cannot be reached is a warning.
    """
    host, _, port = address.rpartition(":")
    connection = HTTPSConnection(host.strip("[]"), int(port), timeout=_TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/health")
        date = connection.getresponse().getheader("Date")
        ahead = (now() - parsedate_to_datetime(date or "")).total_seconds()
    except ssl.SSLError as error:
        return Finding(FAIL, "server", explain_tls(error, address, certificate))
    except (OSError, HTTPException, socket.gaierror) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return Finding(WARN, "server", f"{address} cannot be reached ({why}). Is it started, and the way to it open?")
    except (ValueError, TypeError, OverflowError):
        return Finding(WARN, "clock", f"{address} does not tell its time.")
    finally:
        connection.close()
    if not -_MAX_BEHIND_S <= ahead <= _MAX_AHEAD_S:
        side = "ahead of" if ahead > 0 else "behind"
        return Finding(
            FAIL, "clock", f"This machine's clock is {abs(ahead):.0f} s {side} the server's. Switch on NTP on both."
        )
    return Finding(OK, "clock", f"{ahead:+.0f} s from the server at {address}")


def report(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print every finding; 2 if one of them fails."""
    found = list(findings)
    failed = any(finding.level == FAIL for finding in found)
    if as_json:
        print_json({"healthy": not failed, "findings": [asdict(f) for f in found]})
    else:
        say("\n".join(f"{f.level:<5} {f.subject}: {f.message}" for f in found))
    return 2 if failed else 0
