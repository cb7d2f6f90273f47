"""A draft as a folder that travels: the metadata to sign, the new files, and a signature file of each bank.

``root.json`` and ``targets.json`` (whichever the draft has), ``files/`` with every new file under its target path,
``signatures/BANK.json``. Everything is read with bounds; nothing in it is believed before ``change.read_change``.
"""

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signature
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization.json import JSONSerializer

from fedbank.durable import write_atomic
from fedbank.release.change import Change, Draft, Moved, Published, Trusted, read_change
from fedbank.release.contents import CHANNELS, FILES, MAX_BYTES, Channel, channel_path, release_path
from fedbank.release.errors import ReleaseError
from fedbank.release.inspection import read_plain
from fedbank.release.signatories import KeySigner, tuf_key
from fedbank.release.trust import MAX_ROOT_BYTES, MAX_TARGETS_BYTES, payload, read_metadata
from fedbank.sealing.canonical import canonical, read_canonical
from fedbank.sealing.keys import SigningKey

FORMAT = "fedbank-release-signature/1"
_MAX_SIGNATURE_BYTES = 4096
_HEX = re.compile(r"[0-9a-f]{64,1024}")
_SERIALIZER = JSONSerializer(compact=True, validate=True)


@dataclass(frozen=True, slots=True)
class DraftFolder:
    """The draft in ``folder``."""

    folder: Path

    def write(self, draft: Draft) -> None:
        """The metadata, without signatures."""
        for part in draft.parts():
            bare: Metadata[Any] = Metadata(part.signed)
            write_atomic(self.folder / f"{part.signed.type}.json", bare.to_bytes(_SERIALIZER))

    def read(self) -> Draft:
        """The draft, with every signature that lies beside it and is of the right form; none is judged.

        Raises:
            ReleaseError: there is no draft in the folder.
        """
        root = self._part("root", Root, MAX_ROOT_BYTES)
        draft = Draft(root, self._part("targets", Targets, MAX_TARGETS_BYTES))
        if not draft.parts():
            raise ReleaseError("files", f"Expected a draft of a change in {self.folder}, got none.")
        for part in draft.parts():
            part.signatures = {}
        for path in sorted((self.folder / "signatures").glob("*.json")):
            for kind, signature in read_signature(read_plain(path, _MAX_SIGNATURE_BYTES)).items():
                for part in draft.parts():
                    if part.signed.type == kind:
                        part.signatures[signature.keyid] = signature
        return draft

    def change(self, now: Trusted, draft: Draft) -> Change:
        """What the draft changes, its files being those that it lists; see ``change.read_change``."""
        after = None
        for name in CHANNELS:
            path = self.folder / "files" / channel_path(name)
            if path.exists():
                after = Channel.from_bytes(read_plain(path, 1024))
        return read_change(now, draft, after)

    def new_files(self, change: Change) -> dict[str, Path]:
        """The new files by target path; ``ReleaseError`` unless they are exactly those of the change."""
        expected: dict[str, int] = {}
        if isinstance(change, Published):
            expected = {release_path(change.release, name): MAX_BYTES[name] for name in FILES}
        elif isinstance(change, Moved):
            expected = {channel_path(change.channel): 1024}
        base = self.folder / "files"
        found = {
            str(path.relative_to(base)): path for path in base.rglob("*") if not path.is_dir() or path.is_symlink()
        }
        if set(found) != set(expected):
            other = sorted(set(found) ^ set(expected))
            raise ReleaseError("files", f"Expected exactly the change's files, got a difference in {other[0]!r:.120}.")
        for name, path in found.items():
            status = path.stat(follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) or status.st_size > expected[name]:
                raise ReleaseError("files", f"Expected {name} to be a plain file of at most {expected[name]} bytes.")
        return found

    def adapter(self, change: Published) -> Path:
        """Where the four files of the release lie."""
        return self.folder / "files" / "releases" / change.release

    def _part(self, name: str, kind: Any, most: int) -> Any:
        path = self.folder / f"{name}.json"
        found = read_metadata(read_plain(path, most), kind, most) if path.exists() else None
        if found is not None:
            payload(found)
        return found


def sign_draft(draft: Draft, bank: str, key: SigningKey) -> bytes:
    """A bank's signature file over every part of the draft."""
    signer, keyid = KeySigner(key), tuf_key(key.public).keyid
    parts = {part.signed.type: signer.sign(part.signed_bytes).signature for part in draft.parts()}
    return canonical({"format": FORMAT, "bank": bank, "keyid": keyid, "signatures": parts})


def read_signature(content: bytes) -> Mapping[str, Signature]:
    """Signatures by the kind of metadata; ``ReleaseError`` if the file is of another form."""
    try:
        said = read_canonical(content)
        if set(said) != {"format", "bank", "keyid", "signatures"} or said["format"] != FORMAT:
            raise ValueError("other fields")
        texts = [said["keyid"], *said["signatures"].values()]
        if not set(said["signatures"]) <= {"root", "targets"} or not all(_HEX.fullmatch(text) for text in texts):
            raise ValueError("no signatures")
        return {kind: Signature(said["keyid"], text) for kind, text in said["signatures"].items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ReleaseError("files", "Expected a bank's signature file, got something else.") from error
