"""Every ceremony as a row: who holds keys, what changes, who signs, and whether it takes effect at the members.

A row begins with bank1, bank2 and bank3, two of whom must sign, and one release in ``stable``.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from release_world import World

from fedbank.release.change import Reseated, Trusted, read_change, signed_by
from fedbank.release.errors import ReleaseError
from fedbank.release.signatories import Signatories
from fedbank.sealing.keys import SigningKey

Step = Callable[[World], None]


def nothing(world: World) -> None:
    """Signed anew, for longer."""


def bank4_joins(world: World) -> None:
    world.keys["bank4"] = SigningKey.derived("release", "bank4")


def bank3_leaves(world: World) -> None:
    del world.keys["bank3"]


def bank3_has_a_new_key(world: World) -> None:
    world.keys["bank3"] = SigningKey.derived("new", "bank3")


def coordinator_is_replaced(world: World) -> None:
    world.online = SigningKey.derived("new online")


def three_must_sign(world: World) -> None:
    world.threshold = 3


def one_must_sign(world: World) -> None:
    world.threshold = 1


def all_banks_are_others(world: World) -> None:
    world.keys = {bank: SigningKey.derived("other", bank) for bank in world.keys}


CEREMONIES: list[tuple[Step, str, str]] = [
    # what changes                who signs                   outcome
    (nothing, "bank1 bank2", "in force"),
    (nothing, "bank1", "too few"),
    (nothing, "", "too few"),
    (bank4_joins, "bank1 bank2", "in force"),
    (bank4_joins, "bank1 bank4", "too few"),  # of the old banks only bank1
    (bank4_joins, "bank2 bank3 bank4", "in force"),
    (bank3_leaves, "bank1 bank2", "in force"),
    (bank3_leaves, "bank1 old:bank3", "too few"),  # of the new banks only bank1
    (bank3_leaves, "old:bank3", "too few"),
    (bank3_has_a_new_key, "bank1 bank2", "in force"),  # a lost key: its holder cannot sign
    (bank3_has_a_new_key, "bank1 bank3", "too few"),  # of the old keys only bank1's
    (bank3_has_a_new_key, "bank1 bank3 old:bank3", "in force"),  # a rotation: both keys of bank3 are there
    (coordinator_is_replaced, "bank1 bank3", "in force"),
    (coordinator_is_replaced, "coordinator", "too few"),
    (three_must_sign, "bank1 bank2", "too few"),  # enough of the old threshold, too few of the new
    (three_must_sign, "bank1 bank2 bank3", "in force"),
    (one_must_sign, "bank1", "too few"),  # enough of the new threshold, too few of the old
    (one_must_sign, "bank1 bank2", "in force"),
    (all_banks_are_others, "bank1 bank2 bank3", "too few"),
    (all_banks_are_others, "bank1 bank2 old:bank1", "too few"),
    (all_banks_are_others, "bank1 bank2 old:bank1 old:bank2", "in force"),
]


@pytest.mark.parametrize(
    ("step", "signers", "outcome"), CEREMONIES, ids=[f"{row[0].__name__} by {row[1] or 'nobody'}" for row in CEREMONIES]
)
def test_a_ceremony_takes_effect_if_and_only_if_enough_old_and_new_banks_sign(
    step: Step, signers: str, outcome: str, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.add("spring-1", channel="stable")
    world.mirror().look()
    old, coordinator = dict(world.keys), world.online
    step(world)
    draft = world.root_change()
    for name in signers.split():
        key = coordinator if name == "coordinator" else old[name[4:]] if name.startswith("old:") else world.keys[name]
        world.sign_with(draft, key)
    if outcome == "too few":
        with pytest.raises(ReleaseError, match="too few signed"):
            world.publish(draft, ())
        assert world.mirror().look().root.signed.version == 1
        return
    world.publish(draft, ())
    view = world.mirror().look()
    assert Signatories.of(view.root.signed) == world.signatories()
    assert view.channels["stable"].release == "spring-1", "releases stay what they were"
    later = world.mirror(bank="bank9").look()
    assert later.root.signed.version == 2, "whoever pins the first root follows"


def test_members_go_on_publishing_after_each_ceremony(tmp_path: Path) -> None:
    """Join, rotate, replace the coordinator, one after another; a member that slept through all of it follows."""
    world = World(tmp_path)
    world.add("spring-1", channel="stable")
    world.mirror("sleeper").look()
    for number, step in enumerate((bank4_joins, bank3_has_a_new_key, coordinator_is_replaced), start=2):
        step(world)
        world.publish(world.root_change(), ("bank1", "bank2"))
        world.add(f"spring-{number}", channel="stable")
    for mirror in (world.mirror("sleeper"), world.mirror("new")):
        view = mirror.look()
        assert view.channels["stable"].release == "spring-4" and view.channels["stable"].seq == 4
        assert view.root.signed.version == 4


def test_a_change_says_in_words_what_it_changes(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("spring-1")
    now = _trusted(world)
    bank4_joins(world)
    bank3_leaves(world)
    world.threshold = 3
    change = read_change(now, world.root_change())
    assert isinstance(change, Reseated)
    assert change.sentence() == "add bank4; remove bank3; ask for 3 signatures instead of 2"
    draft = world.root_change()
    world.sign(draft, "bank1", "bank4")
    assert signed_by(draft, now.root) == ["bank1", "bank4"]


def test_two_banks_cannot_share_a_key(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.keys["bank3"] = world.keys["bank2"]
    with pytest.raises(ReleaseError, match="a release key of its own for bank3, got that of bank2"):
        world.root_change()
    world.keys["bank3"] = world.online
    with pytest.raises(ReleaseError, match="got that of the coordinator"):
        world.root_change()


def _trusted(world: World) -> Trusted:
    root, targets = world.repository.root(), world.repository.current()
    assert root is not None and targets is not None
    return Trusted(root.signed, targets.signed, {})
