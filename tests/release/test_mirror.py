"""What a member sees of the repository, and what it refuses to see."""

from pathlib import Path

import pytest
from release_world import World

from fedbank.release.errors import ReleaseError
from fedbank.release.mirror import copy_signatures
from fedbank.release.offline import verify_release


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
