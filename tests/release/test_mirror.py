"""What a member sees of the repository, and what it refuses to see."""

from pathlib import Path

import pytest
from release_world import World
from tuf.api.metadata import Metadata

from fedbank.release.errors import ReleaseError
from fedbank.release.mirror import copy_signatures
from fedbank.release.offline import verify_release
from fedbank.release.signatories import KeySigner


def test_a_release_travels_from_proposal_to_a_verified_folder(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("spring-1", channel="stable")
    mirror = world.mirror()
    view = mirror.look()
    assert view.channels["stable"].release == "spring-1"
    folder = tmp_path / "got"
    mirror.fetch(view, "spring-1", folder / "adapter")
    copy_signatures(tmp_path / "bank1" / "trust", folder / "signatures")
    verified = verify_release(folder, world.pinned, world.now)
    assert verified.signed_by == ["bank2", "bank3"] and verified.threshold == 2


def test_before_anything_is_published_the_answer_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="404: nothing is published yet, or it is withheld") as refused:
        World(tmp_path).mirror().look()
    assert refused.value.check == "unreachable"


def test_however_often_the_signatories_changed_a_bank_follows_to_the_newest(tmp_path: Path) -> None:
    """tuf's own client stops after 256 roots, and begins with the first one every time."""
    world = World(tmp_path, banks=("bank1",), threshold=1)
    draft, files = world.release_change(world.release("spring-1"))
    world.publish(draft, ("bank1",), files)
    for version in range(2, 262):
        root = Metadata(world.signatories().root(version, world.expires))
        root.sign(KeySigner(world.keys["bank1"]))
        (world.repository.metadata / f"{version}.root.json").write_bytes(root.to_bytes())
    assert world.mirror().look().root.signed.version == 261
