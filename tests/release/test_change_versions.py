"""A draft that does not follow what is known: the message says which side is behind."""

from pathlib import Path

import pytest
from release_world import World

from fedbank.release.change import Trusted, read_change
from fedbank.release.errors import ReleaseError


@pytest.mark.parametrize(
    ("known", "remedy"), [(5, "If another change came first"), (3, "not known here: run fedbank client sync")]
)
def test_the_message_says_which_side_is_behind(known: int, remedy: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("spring-1")
    draft, _ = world.release_change(world.release("spring-2"))
    root, targets = world.repository.root(), world.repository.current()
    assert draft.targets is not None and root is not None and targets is not None
    targets.signed.version, draft.targets.signed.version = known, 5
    with pytest.raises(ReleaseError, match=remedy) as refused:
        read_change(Trusted(root.signed, targets.signed, {}), draft)
    assert refused.value.check == "version"
