"""Metadata that counts: read from bytes, judged by the root before it (TUF 1.0.34, section 5.3). Pure, no I/O."""

from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from fedbank.release.errors import ReleaseError
from fedbank.release.signatories import Signatories

MAX_ROOT_BYTES, MAX_TARGETS_BYTES = 512_000, 5_000_000
_T = TypeVar("_T", Root, Snapshot, Targets, Timestamp)


def read_metadata(content: bytes, kind: type[_T], most: int) -> Metadata[_T]:
    """The metadata of one kind in ``content``, its signatures not judged yet; ``ReleaseError`` for anything else."""
    if len(content) > most:
        raise ReleaseError("metadata", f"Expected at most {most} bytes of metadata, got {len(content)}.")
    try:
        metadata: Metadata[_T] = Metadata.from_bytes(content)
    except (RepositoryError, RecursionError) as error:
        raise ReleaseError("metadata", f"Expected TUF metadata, got something else: {error!s:.120}.") from error
    if not isinstance(metadata.signed, kind):
        raise ReleaseError("metadata", f"Expected {kind.type} metadata, got {metadata.signed.type}.")
    return metadata


def first_root(content: bytes) -> Metadata[Root]:
    """A root that is trusted because of where it came from: its own signatures must be good all the same."""
    metadata = read_metadata(content, Root, MAX_ROOT_BYTES)
    _judge(metadata.signed, metadata, "root")
    Signatories.of(metadata.signed)
    return metadata


def follow_roots(trusted: Metadata[Root], chain: Iterable[bytes]) -> Metadata[Root]:
    """The last of ``chain``, each signed by the threshold of the one before and by its own.

    Raises:
        ReleaseError: a version is left out, or too few of either signed.
    """
    for content in chain:
        following = read_metadata(content, Root, MAX_ROOT_BYTES)
        expected = trusted.signed.version + 1
        if following.signed.version != expected:
            raise ReleaseError("version", f"Expected root version {expected}, got {following.signed.version}.")
        _judge(trusted.signed, following, "root")
        _judge(following.signed, following, "root")
        Signatories.of(following.signed)
        trusted = following
    return trusted


def trusted_targets(root: Metadata[Root], content: bytes) -> Metadata[Targets]:
    """Targets metadata that enough banks signed, by ``root``."""
    metadata = read_metadata(content, Targets, MAX_TARGETS_BYTES)
    _judge(root.signed, metadata, "targets")
    return metadata


def payload(metadata: Metadata[_T]) -> bytes:
    """What a signature covers; ``ReleaseError`` if it holds a value that has no canonical form, such as 1.5."""
    try:
        return metadata.signed_bytes
    except (RepositoryError, RecursionError) as error:
        raise ReleaseError("metadata", f"Expected TUF metadata that can be signed, got {error!s:.120}.") from error


def check_fresh(metadata: Metadata[_T], now: datetime) -> None:
    """``ReleaseError`` if the metadata has expired."""
    if metadata.signed.is_expired(now):
        raise ReleaseError(
            "expired",
            f"Expected {metadata.signed.type} metadata that is valid at {now:%Y-%m-%d %H:%M} UTC, got one that expired "
            f"at {metadata.signed.expires:%Y-%m-%d %H:%M} UTC. Ask the members to sign it anew.",
        )


def _judge(judge: Root, metadata: Metadata[_T], role: str) -> None:
    signed_bytes = payload(metadata)
    try:
        judge.verify_delegate(role, signed_bytes, metadata.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        found = judge.get_verification_result(role, signed_bytes, metadata.signatures)
        names = Signatories.of(judge).names()
        signed = ", ".join(sorted(names[keyid] for keyid in found.signed)) or "none"
        raise ReleaseError(
            "signatures",
            f"Expected {found.threshold} of {', '.join(sorted(names.values()))} to have signed version "
            f"{metadata.signed.version} of the {role} metadata, got good signatures of: {signed}.",
        ) from error
