"""Fault 28 as a table: what a coordinator or somebody on the way may try, and by which check a member refuses it.

Every row begins with a member that has looked once, at a repository with a release in ``stable``; afterwards what was
trusted must be trusted still.
"""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from release_world import World
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from fedbank.release.errors import ReleaseError
from fedbank.release.signatories import KeySigner, Signatories
from fedbank.sealing.keys import SigningKey

Attack = Callable[[World, Path], None]


def _served(world: World) -> Path:
    return world.folder / "repository"


def older_copy(world: World, old: Path) -> None:
    """Last week's repository, whole."""
    shutil.rmtree(_served(world))
    shutil.copytree(old, _served(world))


def older_timestamp(world: World, old: Path) -> None:
    """Only the pointer of last week."""
    shutil.copy(old / "metadata" / "timestamp.json", _served(world) / "metadata")


def mixed(world: World, old: Path) -> None:
    """A new timestamp and snapshot over the members' older word."""
    _announce(world, targets=1)


def frozen(world: World, old: Path) -> None:
    """Time goes by and nobody says anything new."""
    _announce(world, targets=_version(world), expires=timedelta(hours=-1))


def endless_timestamp(world: World, old: Path) -> None:
    path = _served(world) / "metadata" / "timestamp.json"
    path.write_bytes(path.read_bytes() + b" " * 1_000_000)


def endless_targets(world: World, old: Path) -> None:
    _announce(world, targets=_version(world) + 1)
    (_served(world) / "metadata" / f"{_version(world) + 1}.targets.json").write_bytes(b" " * 6_000_000)


def by_the_coordinator_alone(world: World, old: Path) -> None:
    _next_targets(world, [world.online])


def by_one_bank(world: World, old: Path) -> None:
    _next_targets(world, [world.keys["bank1"]])


def by_one_bank_twice(world: World, old: Path) -> None:
    """The same signature under two names of a key."""
    change = _next_targets(world, [world.keys["bank1"]])
    path = _served(world) / "metadata" / f"{change.signed.version}.targets.json"
    said = json.loads(path.read_bytes())
    said["signatures"].append(dict(said["signatures"][0]))
    path.write_text(json.dumps(said))


def by_a_stranger(world: World, old: Path) -> None:
    _next_targets(world, [world.keys["bank1"], SigningKey.derived("stranger")])


def by_a_revoked_bank(world: World, old: Path) -> None:
    """bank3 left; its key was kept."""
    key = world.keys.pop("bank3")
    world.publish(world.root_change(), ("bank1", "bank2"))
    _next_targets(world, [world.keys["bank1"], key])


def root_by_new_keys_only(world: World, old: Path) -> None:
    """Somebody else's banks, named as ours."""
    stranger = {bank: SigningKey.derived("other", bank) for bank in world.keys}
    _next_root(world, stranger, list(stranger.values()))


def root_by_old_keys_only(world: World, old: Path) -> None:
    """The banks agreed to keys whose holders did not sign."""
    _next_root(world, {bank: SigningKey.derived("other", bank) for bank in world.keys}, list(world.keys.values()))


def root_that_gives_one_key_two_names(world: World, old: Path) -> None:
    """A majority signs, in error, a root in which one key counts twice."""
    root = world.signatories().root(2, world.expires)
    key = root.keys[next(iter(root.roles["root"].keyids))]
    double = type(key)("f" * 64, key.keytype, key.scheme, dict(key.keyval))
    root.keys["f" * 64] = double
    for role in ("root", "targets"):
        root.roles[role].keyids.append("f" * 64)
    _write_root(world, Metadata(root), list(world.keys.values()))


def root_that_skips_a_version(world: World, old: Path) -> None:
    change = Metadata(world.signatories().root(3, world.expires))
    _write_root(world, change, list(world.keys.values()), number=2)


def expired_by_the_banks(world: World, old: Path) -> None:
    _next_targets(world, [world.keys["bank1"], world.keys["bank2"]], expires=timedelta(days=-1))


def a_flipped_bit(world: World, old: Path) -> None:
    change = _next_targets(world, [world.keys["bank1"], world.keys["bank2"]])
    path = _served(world) / "metadata" / f"{change.signed.version}.targets.json"
    content = bytearray(path.read_bytes())
    at = content.index(b'"sha256"') + 12
    content[at] ^= 1
    path.write_bytes(bytes(content))


def no_json(world: World, old: Path) -> None:
    (_served(world) / "metadata" / "timestamp.json").write_bytes(b"[" * 5000)


def a_delegation(world: World, old: Path) -> None:
    """The banks' word is that somebody else may speak for them: no bank that looks signs it."""
    current = world.repository.current()
    assert current is not None
    said = current.signed.to_dict()
    said["version"] += 1
    role = {"name": "other", "keyids": [], "threshold": 1, "terminating": True, "paths": ["*"]}
    said["delegations"] = {"keys": {}, "roles": [role]}
    _write_targets(world, Targets.from_dict(said), [world.keys["bank1"], world.keys["bank2"]])


def a_path_upwards(world: World, old: Path) -> None:
    current = world.repository.current()
    assert current is not None
    said = current.signed.to_dict()
    said["version"] += 1
    said["targets"]["releases/../../bank1/x"] = dict(next(iter(said["targets"].values())))
    _write_targets(world, Targets.from_dict(said), [world.keys["bank1"], world.keys["bank2"]])


def gone(world: World, old: Path) -> None:
    shutil.rmtree(_served(world) / "metadata")


REFUSED = [
    (older_copy, "version"),
    (older_timestamp, "version"),
    (mixed, "version"),
    (frozen, "expired"),
    (endless_timestamp, "length"),
    (endless_targets, "length"),
    (by_the_coordinator_alone, "signatures"),
    (by_one_bank, "signatures"),
    (by_one_bank_twice, "metadata"),
    (by_a_stranger, "signatures"),
    (by_a_revoked_bank, "signatures"),
    (root_by_new_keys_only, "signatures"),
    (root_by_old_keys_only, "signatures"),
    (root_that_gives_one_key_two_names, "root"),
    (root_that_skips_a_version, "version"),
    (expired_by_the_banks, "expired"),
    (a_flipped_bit, "signatures"),
    (no_json, "metadata"),
    (a_delegation, "targets"),
    (a_path_upwards, "targets"),
    (gone, "unreachable"),
]


@pytest.mark.fault(28)
@pytest.mark.parametrize(("attack", "check"), REFUSED, ids=lambda value: getattr(value, "__name__", value))
def test_an_attack_on_the_repository_is_refused_and_what_was_trusted_stays(
    attack: Attack, check: str, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.add("spring-1", channel="stable")
    world.add("spring-2")
    old = tmp_path / "old"
    shutil.copytree(_served(world), old)
    world.move("stable", "spring-2")
    before = world.mirror().look()
    attack(world, old)
    with pytest.raises(ReleaseError) as refused:
        world.mirror().look()
    assert refused.value.check == check, str(refused.value)
    assert "Expected" in str(refused.value) and "got" in str(refused.value)
    shutil.rmtree(_served(world))
    kept = Targets.from_dict(json.loads((tmp_path / "bank1" / "trust" / "targets.json").read_bytes())["signed"])
    assert kept.targets.keys() >= before.targets.signed.targets.keys()


def test_a_wrong_first_root_trusts_nothing(tmp_path: Path) -> None:
    world = World(tmp_path / "ours")
    world.add("spring-1")
    other = World(tmp_path / "other", banks=("bank7", "bank8"))
    world.pinned = other.pinned
    with pytest.raises(ReleaseError) as refused:
        world.mirror().look()
    assert refused.value.check == "signatures"


def _version(world: World) -> int:
    current = world.repository.current()
    assert current is not None
    return current.signed.version


def _next_targets(world: World, keys: list[SigningKey], expires: timedelta = timedelta(days=30)) -> Metadata[Targets]:
    """The members' next word, put in place by a coordinator that does not ask whether it is complete."""
    current = world.repository.current()
    assert current is not None
    signed = current.signed
    signed.version += 1
    signed.expires = (world.now + expires).replace(microsecond=0)
    return _write_targets(world, signed, keys)


def _write_targets(world: World, signed: Targets, keys: list[SigningKey]) -> Metadata[Targets]:
    change = Metadata(signed)
    for key in keys:
        change.sign(KeySigner(key), append=True)
    (_served(world) / "metadata" / f"{signed.version}.targets.json").write_bytes(change.to_bytes())
    _announce(world, targets=signed.version)
    return change


def _next_root(world: World, keys: dict[str, SigningKey], signers: list[SigningKey]) -> None:
    public = {bank: key.public for bank, key in keys.items()}
    root = Signatories("alliance", public, 2, world.online.public).root(2, world.expires)
    _write_root(world, Metadata(root), signers)


def _write_root(world: World, change: Metadata[Root], signers: list[SigningKey], number: int = 0) -> None:
    for key in signers:
        change.sign(KeySigner(key), append=True)
    name = f"{number or change.signed.version}.root.json"
    (_served(world) / "metadata" / name).write_bytes(change.to_bytes())


def _announce(world: World, *, targets: int, expires: timedelta = timedelta(hours=1)) -> None:
    """Newer snapshot and timestamp, by the coordinator's own key, over any version of the members' word."""
    folder, moment = _served(world) / "metadata", (world.now + expires).replace(microsecond=0)
    number = max(int(path.name.split(".")[0]) for path in folder.glob("*.snapshot.json")) + 1
    snapshot: Any = Metadata(Snapshot(number, expires=moment, meta={"targets.json": MetaFile(version=targets)}))
    timestamp: Any = Metadata(Timestamp(number + 100, expires=moment, snapshot_meta=MetaFile(version=number)))
    for metadata, name in ((snapshot, f"{number}.snapshot.json"), (timestamp, "timestamp.json")):
        metadata.sign(KeySigner(world.online))
        (folder / name).write_bytes(metadata.to_bytes())
