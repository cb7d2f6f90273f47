"""Verify a release's folder without network, without torch and without the coordinator.

``DIR/adapter/`` holds the four files, ``DIR/signatures/`` every root from the first on and the targets that the members
signed. Whoever has the first root from a source of their own needs nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import TargetFile

from fedbank.release.contents import FILES, Contents
from fedbank.release.errors import ReleaseError
from fedbank.release.inspection import Inspected, inspect, open_plain
from fedbank.release.signatories import Signatories
from fedbank.release.trust import (
    MAX_ROOT_BYTES,
    MAX_TARGETS_BYTES,
    check_fresh,
    first_root,
    follow_roots,
    trusted_targets,
)

ADAPTER, SIGNATURES = "adapter", "signatures"


@dataclass(frozen=True, slots=True)
class Verified:
    """A release that the members signed: ``signed_by`` their names, ``valid_until`` when their word expires."""

    inspected: Inspected
    signed_by: Sequence[str]
    threshold: int
    root_version: int
    valid_until: datetime


def verify_release(
    folder: Path, root: bytes, now: datetime, *, max_norm: float | None = None, signatures: Path | None = None
) -> Verified:
    """The release in ``folder``, if the members' signatures lead from ``root`` to each of its bytes.

    ``signatures``: the folder of newer signatures than those beside the release.

    Raises:
        ReleaseError: names the check that failed.
    """
    for name in (ADAPTER, SIGNATURES):
        if not (folder / name).is_dir():
            raise ReleaseError(
                "files", f"Expected a release with {ADAPTER}/ and {SIGNATURES}/ in {folder}, got no {name}/ there."
            )
    trusted = first_root(root)
    signed = signatures or folder / SIGNATURES
    later = (_read(path, MAX_ROOT_BYTES) for number, path in _roots(signed) if number > trusted.signed.version)
    newest = follow_roots(trusted, later)
    check_fresh(newest, now)
    targets = trusted_targets(newest, _read(signed / "targets.json", MAX_TARGETS_BYTES))
    check_fresh(targets, now)
    inspected = inspect(folder / ADAPTER, max_norm=max_norm)
    check_listed(inspected, Contents.of(targets.signed).releases.get(inspected.manifest.release, {}))
    signatories = Signatories.of(newest.signed)
    verified = newest.signed.get_verification_result("targets", targets.signed_bytes, targets.signatures).signed
    names = sorted(signatories.names()[keyid] for keyid in verified)
    until = min(newest.signed.expires, targets.signed.expires)
    return Verified(inspected, names, signatories.threshold, newest.signed.version, until)


def own_root(folder: Path) -> bytes:
    """The first root that the release in ``folder`` carries itself: good against damage, not against forgery.

    Raises:
        ReleaseError: it carries none.
    """
    found = _roots(folder / SIGNATURES)
    if not found:
        raise ReleaseError("files", f"Expected the signatures of a release in {folder / SIGNATURES}, got no root.")
    return _read(found[0][1], MAX_ROOT_BYTES)


def adapter_folder(folder: Path) -> Path:
    """Where the four files lie: in a release as a bank keeps it, or in a folder of them alone."""
    inner = folder / ADAPTER
    return inner if inner.is_dir() else folder


def check_listed(inspected: Inspected, listed: dict[str, TargetFile] | object) -> None:
    """``ReleaseError`` unless every file is the one that is ``listed``."""
    files = dict(listed) if isinstance(listed, dict) else {}
    for name in FILES:
        file = files.get(name)
        if file is None:
            raise ReleaseError(
                "unlisted", f"Expected a release that the members signed, got {inspected.manifest.release}, unlisted."
            )
        if (file.hashes, file.length) != ({"sha256": inspected.hashes[name]}, inspected.sizes[name]):
            raise ReleaseError(
                "hash",
                f"Expected {name} with the SHA-256 {file.hashes['sha256'][:16]} that the members signed, got "
                f"{inspected.hashes[name][:16]}.",
            )


def check_named(inspected: Inspected, release: str) -> None:
    """``ReleaseError`` unless the manifest is that of ``release``: one release has one name."""
    if inspected.manifest.release != release:
        raise ReleaseError(
            "release-id", f"Expected the manifest of {release}, got that of {inspected.manifest.release}."
        )


def _roots(folder: Path) -> list[tuple[int, Path]]:
    """By version; none is read before those ahead of it were found good, since there may be any number."""
    found = []
    for path in folder.glob("*.root.json"):
        number = path.name.partition(".")[0]
        if not number.isdecimal() or len(number) > 9:
            raise ReleaseError("files", f"Expected roots named by their version, got {path.name!r:.60}.")
        found.append((int(number), path))
    return sorted(found)


def _read(path: Path, most: int) -> bytes:
    with open_plain(path) as file:
        return file.read(most + 1)
