"""A publication is killed at each of its moments: members see what was or what is, and nobody signs again."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from release_world import FolderFetcher, write_release

from fedbank.release.drafts import DraftFolder, sign_draft
from fedbank.release.errors import ReleaseError
from fedbank.release.mirror import Mirror, View
from fedbank.sealing.keys import SigningKey
from fedbank_server.release_files import ReleaseFiles
from fedbank_server.releases import collect, draft_release, draft_signatories, publish, renew_if_due

pytestmark = pytest.mark.slow
NOW = datetime.now(UTC)
KEYS = {bank: SigningKey.derived("release", bank) for bank in ("bank-a", "bank-b", "bank-c")}
_KILLED = """
import os, sys
left = int(sys.argv[3])
def hook(event, words):
    global left
    if event == "os.rename" and sys.argv[1] + "/releases" in str(words[1]):
        left -= 1
        if left < 0:
            os._exit(9)
from datetime import datetime
from pathlib import Path
from fedbank.release.drafts import DraftFolder
from fedbank_server.releases import publish
sys.addaudithook(hook)
publish(Path(sys.argv[1]), DraftFolder(Path(sys.argv[2])), datetime.fromisoformat(sys.argv[4]))
"""


def signed(drafted: DraftFolder) -> DraftFolder:
    collect(drafted, [sign_draft(drafted.read(), bank, KEYS[bank]) for bank in KEYS])
    return drafted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """bank-a and bank-b sign; spring-1 is there."""
    made = tmp_path / "coordinator"
    made.mkdir()
    keys = {bank: KEYS[bank].public for bank in ("bank-a", "bank-b")}
    publish(made, signed(draft_signatories(made, "alliance", NOW, add=keys, remove=(), threshold=None)), NOW)
    publish(made, signed(draft_release(made, a_release(tmp_path, "spring-1"), NOW)), NOW)
    return made


def a_release(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    write_release(made, name)
    return made


def look(folder: Path, trust: Path) -> View:
    repository = ReleaseFiles(folder).repository
    mirror = Mirror(trust, repository.first_root() or b"", FolderFetcher(repository.folder), "https://repository")
    return mirror.look()


@pytest.mark.parametrize("what", ["a release", "other signatories"])
def test_a_publication_that_is_killed_at_any_moment_is_whole_or_not_at_all(
    what: str, folder: Path, tmp_path: Path
) -> None:
    if what == "a release":
        drafted, before, after = draft_release(folder, a_release(tmp_path, "spring-2"), NOW), (1, 1), (1, 2)
    else:  # bank-a leaves: what it signed does not count any more
        keys = {"bank-c": KEYS["bank-c"].public}
        draft = draft_signatories(folder, "alliance", NOW, add=keys, remove=["bank-a"], threshold=None)
        drafted, before, after = draft, (1, 1), (2, 2)
    signed(drafted)
    kept, moments = tmp_path / "kept", 0
    shutil.copytree(folder, kept)
    while True:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        words = [str(folder), str(drafted.folder), str(moments), NOW.isoformat()]
        done = subprocess.run([sys.executable, "-c", _KILLED, *words], check=False, timeout=60)
        assert done.returncode in (0, 9)
        renew_if_due(folder, NOW)  # as the server does by itself
        view = look(folder, tmp_path / f"trust-{moments}")
        seen = (view.root.signed.version, view.targets.signed.version)
        assert seen in (before, after) and (seen == after or done.returncode == 9)
        if drafted.folder.exists():
            if seen == before:
                publish(folder, drafted, NOW)
            else:
                with pytest.raises(ReleaseError, match="which is published"):
                    publish(folder, drafted, NOW)
        view = look(folder, tmp_path / f"trust-{moments}")
        assert (view.root.signed.version, view.targets.signed.version) == after
        assert not drafted.folder.exists() and not ReleaseFiles(folder).repository.committed.exists()
        if done.returncode == 0:
            break
        moments += 1
    assert moments >= 4, "it was killed between all of its writes"
