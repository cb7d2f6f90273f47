"""Which releases a service may answer with: adopted, by the members' newest word, to the last byte, for this base."""

import hashlib
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from served_bank import MemberBank, World, base_folder, source_of
from tuf.api.metadata import Metadata

from fedbank.durable import open_locked
from fedbank.errors import ModelError, RunError
from fedbank.release.change import Draft, anew
from fedbank.release.contents import MANIFEST
from fedbank.release.errors import ReleaseError
from fedbank.release.offline import Verified
from fedbank.sealing.keys import SigningKey
from fedbank_client.serving.source import ReleaseSource


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.add("spring-1", channel="stable")
    return made


@pytest.fixture
def bank(world: World, tmp_path: Path) -> MemberBank:
    made = MemberBank(world, tmp_path / "member")
    made.sync()
    return made


@pytest.fixture
def source(bank: MemberBank, tmp_path: Path) -> ReleaseSource:
    return source_of(bank, base_folder(tmp_path / "base"))


def refused(source: ReleaseSource, world: World, days: float = 0) -> str:
    """The check that fails."""
    with pytest.raises(ReleaseError) as told:
        source.offered(world.now + timedelta(days=days))
    return told.value.check


def withdraw(world: World, release: str) -> None:
    """The members sign a word that knows the release no more."""
    current = world.repository.current()
    assert current is not None
    following = anew(current.signed, world.expires)
    assert following is not None
    for path in [path for path in following.targets if path.startswith(f"releases/{release}/")]:
        del following.targets[path]
    assert len(following.targets) < len(current.signed.targets)
    world.publish(Draft(None, Metadata(following)), ("bank1", "bank2"))


def test_what_is_adopted_is_offered_under_the_digest_of_its_manifest(
    source: ReleaseSource, bank: MemberBank, world: World
) -> None:
    offered = source.offered(world.now)
    assert offered is not None and offered.release == "spring-1"
    manifest = (bank.home.of("spring-1") / "adapter" / MANIFEST).read_bytes()
    assert offered.digest == hashlib.sha256(manifest).hexdigest()
    assert offered.adapter == bank.home.of("spring-1") / "adapter"
    assert source.of("spring-1", world.now) == offered


def test_before_the_first_adoption_nothing_is_offered(world: World, tmp_path: Path) -> None:
    bank = MemberBank(world, tmp_path / "member")
    source = source_of(bank, base_folder(tmp_path / "base"))
    before = source.mark()
    assert source.offered(world.now) is None
    bank.sync()
    assert source.mark() != before
    assert source.offered(world.now) is not None


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "manifest.json", "adapter_config.json", "README.md"])
def test_a_byte_that_changed_on_disk_is_noticed(
    source: ReleaseSource, bank: MemberBank, world: World, name: str
) -> None:
    path, before = bank.home.of("spring-1") / "adapter" / name, source.mark()
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert source.mark() != before
    assert refused(source, world) in ("hash", "manifest", "config", "norm")


def test_a_file_more_is_refused(source: ReleaseSource, bank: MemberBank, world: World) -> None:
    (bank.home.of("spring-1") / "adapter" / "code.py").write_text("")
    assert refused(source, world) == "files"


def test_a_release_that_is_gone_from_the_disk_is_refused(source: ReleaseSource, world: World) -> None:
    with pytest.raises(ReleaseError, match="Expected a release with adapter/"):
        source.of("spring-0", world.now)


def test_a_release_under_another_name_is_refused(source: ReleaseSource, bank: MemberBank, world: World) -> None:
    bank.home.of("spring-1").rename(bank.home.of("summer-1"))
    with pytest.raises(ReleaseError, match=r"Expected the manifest of summer-1, got that of spring-1"):
        source.of("summer-1", world.now)


def test_a_release_that_the_members_took_back_is_refused_though_its_own_signatures_verify(
    source: ReleaseSource, bank: MemberBank, world: World
) -> None:
    withdraw(world, "spring-1")
    world.add("spring-2", value=1.5)  # the channel still names spring-1: the bank only learns the members' word
    before = source.mark()
    bank.sync()
    assert bank.adopted == "spring-1" and source.mark() != before
    assert refused(source, world) == "unlisted"


def test_keys_that_no_longer_count_take_what_they_signed_with_them(
    source: ReleaseSource, bank: MemberBank, world: World
) -> None:
    """The new root came, then the network broke off: the word on releases is still the old keys'."""
    word = bank.home.trust / "targets.json"
    signed_by_both = word.read_bytes()
    left = {name: world.keys.pop(name) for name in ("bank2", "bank3")}
    world.keys["bank4"] = SigningKey.derived("release", "bank4")
    change = world.root_change()
    world.sign(change, "bank1", "bank4")
    world.sign_with(change, left["bank2"])
    world.repository.publish(change, {}, world.online, world.now)
    bank.sync()
    assert source.offered(world.now) is not None
    word.write_bytes(signed_by_both)
    assert refused(source, world) == "signatures"


def test_a_word_that_has_expired_is_refused(source: ReleaseSource, world: World) -> None:
    assert refused(source, world, days=400) == "expired"


def test_newer_signatures_than_those_beside_the_release_count(
    source: ReleaseSource, bank: MemberBank, world: World
) -> None:
    world.now += timedelta(days=200)
    world.publish(world.root_change(), ("bank1", "bank2"))
    bank.sync()
    assert source.offered(world.now + timedelta(days=200)) is not None


def test_a_release_for_another_base_model_is_refused_with_both_digests(
    bank: MemberBank, world: World, tmp_path: Path
) -> None:
    source = source_of(bank, base_folder(tmp_path / "other", b"another model"))
    with pytest.raises(ModelError) as told:
        source.offered(world.now)
    for content in (b"base", b"another model"):
        assert hashlib.sha256(content).hexdigest() in str(told.value)


def test_a_base_model_that_changes_on_disk_is_noticed(
    source: ReleaseSource, bank: MemberBank, world: World, tmp_path: Path
) -> None:
    source.offered(world.now)
    before = source.mark()
    (tmp_path / "base" / "model").write_bytes(b"bass")
    assert source.mark() != before
    with pytest.raises(ModelError, match="Expected the base model"):
        source.offered(world.now)


def test_the_base_models_digest_is_taken_once_while_nothing_changes(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    taken = base.digest()
    (tmp_path / "base" / "model").chmod(0o600)  # another time of change, the same bytes
    assert base.digest() == taken
    counted = type(base)(base.folder, lambda folder: calls.append(folder) or "digest")  # type: ignore[func-returns-value]
    calls: list[Path] = []
    assert [counted.digest() for _ in range(3)] == ["digest"] * 3 and len(calls) == 1


def test_a_word_that_a_sync_is_just_writing_is_waited_for(
    source: ReleaseSource, bank: MemberBank, world: World
) -> None:
    targets = bank.home.trust / "targets.json"
    whole = targets.read_bytes()
    targets.write_bytes(whole[:100])
    offered, looks = [], []

    class Watched(ReleaseSource):
        def _by_the_newest_word(self, folder: Path, now: datetime) -> Verified:
            looks.append(folder)
            return super()._by_the_newest_word(folder, now)

    watched = Watched(source._home, source._base)
    with open_locked(bank.home.folder / "lock", write=True):
        looking = threading.Thread(target=lambda: offered.append(watched.offered(world.now)))
        looking.start()
        while len(looks) < 2 and looking.is_alive():  # it has seen the half, and looks again
            time.sleep(0.005)
        targets.write_bytes(whole)
        looking.join(20)
    assert offered and offered[0] is not None
    targets.write_bytes(whole[:100])
    assert refused(source, world) == "metadata"


def test_what_a_sync_is_fetching_is_no_change(source: ReleaseSource, bank: MemberBank) -> None:
    before = source.mark()
    staging = bank.home.folder / ".spring-2" / "adapter"
    staging.mkdir(parents=True)
    (staging / "half").write_bytes(b"half")
    assert source.mark() == before


def test_an_adopted_release_that_cannot_be_read_is_told(source: ReleaseSource, bank: MemberBank, world: World) -> None:
    (bank.home.folder / "adopted.json").write_text("{}")
    with pytest.raises(RunError, match="Expected the adopted release"):
        source.offered(world.now)
