"""What anybody can check: a whole log, that an entry is in it, that it only grew; and cosignatures, which say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedbank.durable import open_locked
from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.files import follow_files, read_leaves, unusable
from fedbank.evidence.note import (
    COSIGNATURE,
    Checkpoint,
    Key,
    find_signatures,
    read_checkpoint,
    signature_line,
    split_note,
    verify_raw,
)
from fedbank.evidence.trail import Trail
from fedbank.evidence.tree import check_consistency, check_inclusion, leaf_hash, root_of

_SECONDS_BYTES = 8


@dataclass(frozen=True, slots=True)
class Verified:
    """A log without damage: numbers of ``entries`` and ``checkpoints``, the ``root`` over all entries in hexadecimal.

    ``signed`` entries are vouched for by the last checkpoint, ``note`` (empty if there is none); the others, at most
    100, could have been changed by whoever can write the file.
    """

    entries: int
    checkpoints: int
    root: str
    signed: int
    note: str


def verify_log(path: Path, public_key: bytes | None, seen: Sequence[str] = ()) -> Verified:
    """Verify every entry and checkpoint of the log, and that it goes on from the checkpoints ``seen`` earlier.

    Without ``public_key`` signatures are not checked: whoever can write the files can then have made up all of it.

    Raises:
        EvidenceError: names the first bad entry, or says that the log cannot be read.
    """
    trail = Trail(public_key, None)
    try:
        with open_locked(path, write=False):
            follow_files(trail, path)
            leaves = read_leaves(path) if seen else []
    except OSError as error:
        raise unusable(path, error) from error
    origin = trail.checkpoint.origin if trail.checkpoint else None
    for note in seen:
        _check_seen(read_checkpoint(note, public_key, origin), leaves)
    return Verified(trail.entries, trail.checkpoints, trail.root().hex(), trail.signed, trail.note)


def check_growth(old: str, new: str, proof: Sequence[bytes], public_key: bytes) -> Checkpoint:
    """The checkpoint in ``new``, if its log begins with all that ``old`` signed (both signed with this key).

    Raises:
        EvidenceError: one of the notes is not of this log, or the log was rewritten or cut in between.
    """
    first = read_checkpoint(old, public_key)
    second = read_checkpoint(new, public_key, first.origin)
    check_consistency(first.size, first.root, second.size, second.root, proof)
    return second


def check_entry(line: bytes, index: int, note: str, proof: Sequence[bytes], public_key: bytes) -> None:
    """``EvidenceError`` unless ``line`` is entry ``index`` of the log whose checkpoint is ``note``."""
    checkpoint = read_checkpoint(note, public_key)
    check_inclusion(leaf_hash(line), index, checkpoint.size, proof, checkpoint.root)


def cosign(note: str, key: Key, name: str, seconds: int) -> str:
    """``note`` with a cosignature of ``name`` (c2sp.org/tlog-cosignature): at ``seconds`` (POSIX) it was consistent.

    Only for a checkpoint whose signature and growth (``check_growth``) the caller has verified.
    """
    read_checkpoint(note, None)
    text, _ = split_note(note)
    signature = key.sign(_cosigned(text, seconds))
    content = seconds.to_bytes(_SECONDS_BYTES, "big") + signature
    return note + signature_line(name, COSIGNATURE, key.public.raw, content)


def check_cosignature(note: str, name: str, public_key: bytes) -> int:
    """The latest time (POSIX seconds) at which ``name`` vouched for ``note``; ``EvidenceError`` if it never did."""
    text, signatures = split_note(note)
    times = []
    for content in find_signatures(signatures, name, COSIGNATURE, public_key):
        seconds = int.from_bytes(content[:_SECONDS_BYTES], "big")
        verify_raw(content[_SECONDS_BYTES:], _cosigned(text, seconds), name, public_key)
        times.append(seconds)
    if not times:
        raise EvidenceError(f"Expected a cosignature by {name}, got none. Ask that member to check the log.")
    return max(times)


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _check_seen(earlier: Checkpoint, leaves: Sequence[bytes]) -> None:
    if earlier.size > len(leaves):
        raise EvidenceError(
            f"Expected at least {earlier.size} entries, as an earlier checkpoint signed, got {len(leaves)}: the log "
            "was cut or put back to an older copy.",
            len(leaves),
        )
    if root_of(leaves[: earlier.size]) != earlier.root:
        raise EvidenceError(
            f"Expected the first {earlier.size} entries as an earlier checkpoint signed them, got others: the log was "
            "rewritten since."
        )
