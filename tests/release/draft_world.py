"""Drafts as the folders that travel, and a member bank's own books."""

import shutil
from pathlib import Path
from typing import Any

from release_world import World, manifest_of

from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.privacy.ledger import LEDGER, Charge, Ledger
from fedbank.release.change import Draft
from fedbank.release.drafts import DraftFolder
from fedbank.sealing.keys import SigningKey
from fedbank_client.home import TRAINING


def travelling(folder: Path, draft: Draft, files: dict[str, Path] | None = None) -> DraftFolder:
    """The draft with its new files in ``folder``."""
    for path, source in (files or {}).items():
        target = folder / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    found = DraftFolder(folder)
    found.write(draft)
    return found


def draft_of_release(world: World, name: str, **changes: Any) -> DraftFolder:
    """A draft that publishes the release ``name``, whose manifest differs by ``changes``."""
    draft, files = world.release_change(world.release(name, **changes))
    return travelling(world.folder / "drafts" / name, draft, files)


def privacy_of(**changes: str | None) -> dict[str, Any]:
    """The manifest's section on privacy with another word on bank1."""
    said = manifest_of("x", 0.5).privacy
    return {**said, "banks": {**said["banks"], "bank1": {**said["banks"]["bank1"], **changes}}}


def charge(folder: Path, *, steps: int = 60, noise: float = 1.1, campaign: str = "spring") -> None:
    """A round of ``campaign`` in bank1's ledger."""
    ledger = Ledger(folder / TRAINING / LEDGER, "bank1")
    (folder / TRAINING).mkdir(exist_ok=True)
    digest = "0" * 64
    ledger.charge(Charge(campaign, 1, digest, digest, 0.1, noise, steps, None), max_steps=1000)


def received(folder: Path, digest: str, campaign: str = "spring") -> None:
    """bank1's evidence says which adapter it got at the end."""
    log = EvidenceLog(folder / EVIDENCE, origin("alliance", "bank1"), SigningKey.derived("bank1"))
    log.append("result-received", digest, f"of {campaign}", "bank1")
