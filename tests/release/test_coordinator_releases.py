"""The coordinator's part: it drafts, collects and publishes what enough banks signed, and renews what is newest."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from release_world import write_release

from fedbank.errors import RunError
from fedbank.release.contents import Contents
from fedbank.release.drafts import DraftFolder, sign_draft
from fedbank.release.errors import ReleaseError
from fedbank.release.repository import SNAPSHOT_LIFE, TIMESTAMP_LIFE
from fedbank.release.signatories import Signatories
from fedbank.sealing.keys import SigningKey
from fedbank_server.release_files import ReleaseFiles
from fedbank_server.releases import (
    collect,
    draft_channel,
    draft_release,
    draft_signatories,
    draft_state,
    earlier_release,
    open_drafts,
    publish,
    renew_if_due,
)

NOW = datetime(2090, 1, 1, 12, tzinfo=UTC)
KEYS = {bank: SigningKey.derived("release", bank) for bank in ("bank-a", "bank-b", "bank-c", "bank-m")}


class Coordinator:
    """The coordinator's folder, with two of three banks to sign."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, ReleaseFiles(folder)
        self.reseat(signers=("bank-a", "bank-b"), add=("bank-a", "bank-b", "bank-m"))

    def publish(self, drafted: DraftFolder, *banks: str, now: datetime = NOW) -> str:
        collect(drafted, [sign_draft(drafted.read(), bank, KEYS[bank]) for bank in banks])
        return publish(self.folder, drafted, now).sentence()

    def reseat(self, *, signers: tuple[str, ...], add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> str:
        keys = {bank: KEYS[bank].public for bank in add}
        drafted = draft_signatories(self.folder, "alliance", NOW, add=keys, remove=remove, threshold=None)
        return self.publish(drafted, *signers)

    def release(self, name: str, parent: str | None = None) -> DraftFolder:
        made = self.folder / "made" / name
        made.mkdir(parents=True)
        write_release(made, name, parent=parent)
        return draft_release(self.folder, made, NOW)

    @property
    def releases(self) -> list[str]:
        targets = self.files.trusted().targets
        return sorted(Contents.of(targets).releases) if targets else []


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return Coordinator(tmp_path)


def test_a_release_is_published_by_two_banks_and_not_by_one(coordinator: Coordinator) -> None:
    drafted = coordinator.release("spring-1")
    for banks in ((), ("bank-a",), ("bank-a", "bank-c")):
        with pytest.raises(ReleaseError, match=r"Expected signatures of 2 banks, got \d .*Nothing was published"):
            coordinator.publish(drafted, *banks)
        assert coordinator.releases == []
    assert draft_state(coordinator.folder, drafted).signed == ["bank-a"]
    assert coordinator.publish(drafted, "bank-b") == "publish the release spring-1"
    assert coordinator.releases == ["spring-1"] and not drafted.folder.exists()
    with pytest.raises(ReleaseError, match="Expected a new release, got spring-1, which is published"):
        draft_release(coordinator.folder, coordinator.folder / "made" / "spring-1", NOW)


def test_a_draft_that_was_overtaken_is_not_published(coordinator: Coordinator) -> None:
    first, second = coordinator.release("spring-1"), coordinator.release("spring-2")
    coordinator.publish(second, "bank-a", "bank-b")
    with pytest.raises(ReleaseError, match="If another change came first, ask the coordinator to propose this one"):
        coordinator.publish(first, "bank-a", "bank-b")
    assert coordinator.releases == ["spring-2"]
    third = coordinator.release("spring-3")
    states, overtaken = open_drafts(coordinator.folder)
    assert (list(states), overtaken) == ([third.folder.name], [first.folder.name])


@pytest.mark.parametrize("bank", ["bank-c", "bank-z"])
def test_a_bank_joins_whatever_its_name_is(coordinator: Coordinator, bank: str) -> None:
    """bank-c's name stands between those of others in every list that is sorted."""
    KEYS.setdefault("bank-z", SigningKey.derived("release", "bank-z"))
    coordinator.publish(coordinator.release("spring-1"), "bank-a", "bank-b")
    assert coordinator.reseat(signers=("bank-a", "bank-b", bank), add=(bank,)) == f"add {bank}; " + (
        "ask for 3 signatures instead of 2"
    )
    root = coordinator.files.trusted().root
    assert root is not None and sorted(Signatories.of(root).banks) == sorted(["bank-a", "bank-b", "bank-m", bank])
    coordinator.publish(coordinator.release("spring-2"), "bank-a", "bank-m", bank)
    assert coordinator.releases == ["spring-1", "spring-2"]


@pytest.mark.parametrize("threshold", [1, 3])
def test_both_thresholds_count_before_there_is_any_release_too(coordinator: Coordinator, threshold: int) -> None:
    drafted = draft_signatories(coordinator.folder, "alliance", NOW, add={}, remove=(), threshold=threshold)
    few, enough = (("bank-a",), ("bank-b",)) if threshold == 1 else (("bank-a", "bank-b"), ("bank-m",))
    with pytest.raises(ReleaseError, match="Nothing was published"):
        coordinator.publish(drafted, *few)
    assert coordinator.publish(drafted, *enough) == f"ask for {threshold} signatures instead of 2"


def test_a_bank_that_left_signs_nothing_more(coordinator: Coordinator) -> None:
    coordinator.reseat(signers=("bank-a", "bank-b"), remove=("bank-m",))
    with pytest.raises(ReleaseError, match=r"got 1 \(bank-a\)"):
        coordinator.publish(coordinator.release("spring-1"), "bank-a", "bank-m")
    with pytest.raises(RunError, match="Expected a bank that signs releases, got 'bank-m'"):
        coordinator.reseat(signers=(), remove=("bank-m",))


def test_a_channel_goes_forth_and_back_by_signatures(coordinator: Coordinator) -> None:
    coordinator.publish(coordinator.release("spring-1"), "bank-a", "bank-b")
    coordinator.publish(coordinator.release("spring-2", parent="spring-1"), "bank-a", "bank-m")
    for release, seq in (("spring-1", 1), ("spring-2", 2), ("spring-1", 3)):
        drafted = draft_channel(coordinator.folder, "stable", release, NOW)
        assert drafted.folder.name == f"stable-{seq}"
        with pytest.raises(ReleaseError, match="Nothing was published"):
            coordinator.publish(drafted, "bank-a")
        coordinator.publish(drafted, "bank-m")
        if release == "spring-2":
            assert earlier_release(coordinator.folder, "stable") == "spring-1"
    channel = coordinator.files.trusted().channels["stable"]
    assert (channel.release, channel.seq) == ("spring-1", 3)
    for name, release in (("stable", "spring-9"), ("beta", "spring-1"), ("stable", "spring-1")):
        with pytest.raises(ReleaseError) as refused:
            draft_channel(coordinator.folder, name, release, NOW)
        assert refused.value.check == "channel"
    with pytest.raises(ReleaseError, match="Expected a release before spring-1, got none"):
        earlier_release(coordinator.folder, "stable")


def test_a_folder_that_is_no_release_is_not_drafted(coordinator: Coordinator) -> None:
    made = coordinator.folder / "made"
    made.mkdir()
    write_release(made, "spring-1")
    (made / "adapter_config.json").write_text("{}")
    with pytest.raises(ReleaseError, match="follows from the manifest, to the byte"):
        draft_release(coordinator.folder, made, NOW)
    assert not list(coordinator.files.drafts.glob("*"))


def test_what_is_newest_is_said_anew_before_it_expires_and_not_at_every_look(coordinator: Coordinator) -> None:
    coordinator.publish(coordinator.release("spring-1"), "bank-a", "bank-b")
    path = coordinator.files.repository.metadata / "timestamp.json"

    def said() -> tuple[int, str]:
        signed = json.loads(path.read_bytes())["signed"]
        return signed["version"], signed["expires"][:16]

    assert said() == (1, "2090-01-02T12:00")
    renew_if_due(coordinator.folder, NOW + TIMESTAMP_LIFE / 2 - timedelta(minutes=1))
    assert said() == (1, "2090-01-02T12:00")
    renew_if_due(coordinator.folder, NOW + TIMESTAMP_LIFE / 2 + timedelta(minutes=1))
    assert said() == (2, "2090-01-03T00:01")
    assert _numbers(coordinator, "snapshot") == [1]
    renew_if_due(coordinator.folder, NOW + SNAPSHOT_LIFE / 2 + timedelta(hours=1))
    assert _numbers(coordinator, "snapshot") == [1, 2], "a snapshot is made anew in time"


def test_roots_stay_for_ever_and_of_the_others_the_last_three(coordinator: Coordinator) -> None:
    for number in range(1, 6):
        coordinator.publish(coordinator.release(f"spring-{number}"), "bank-a", "bank-b")
        coordinator.reseat(signers=("bank-a", "bank-b"))
    assert _numbers(coordinator, "root") == [1, 2, 3, 4, 5, 6]
    assert _numbers(coordinator, "targets") == [8, 9, 10] and _numbers(coordinator, "snapshot") == [8, 9, 10]


def _numbers(coordinator: Coordinator, kind: str) -> list[int]:
    return sorted(int(path.name.split(".")[0]) for path in coordinator.files.repository.metadata.glob(f"*.{kind}.json"))
