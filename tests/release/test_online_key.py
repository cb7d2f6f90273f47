"""A new online key counts when the members have signed it, and not before; a lost one is said to be lost."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from release_world import BANKS, FolderFetcher, write_release

from fedbank.errors import RunError
from fedbank.membership.health import FAIL, OK
from fedbank.release.drafts import DraftFolder, sign_draft
from fedbank.release.mirror import Mirror
from fedbank.release.signatories import Signatories
from fedbank.sealing.keys import SigningKey
from fedbank_server.doctor import examine
from fedbank_server.release_files import ReleaseFiles
from fedbank_server.releases import collect, draft_release, draft_signatories, publish, renew_if_due

KEYS = {bank: SigningKey.derived("release", bank) for bank in BANKS}


class Published:
    """A coordinator's folder with signatories and one release, and a member that looks at it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.now = folder / "coordinator", ReleaseFiles(folder / "coordinator"), _now()
        self.folder.mkdir()
        self.sign(self.signatories(add={bank: key.public for bank, key in KEYS.items()}))
        made = folder / "spring"
        made.mkdir()
        write_release(made, "spring")
        self.sign(draft_release(self.folder, made, self.now))
        self.root = self.files.repository.first_root() or b""

    def signatories(self, **wanted: object) -> DraftFolder:
        words = {"add": {}, "remove": [], "threshold": None} | wanted
        return draft_signatories(self.folder, "alliance", self.now, **words)  # type: ignore[arg-type]

    def sign(self, drafted: DraftFolder, banks: Sequence[str] = BANKS[:2]) -> None:
        collect(drafted, [sign_draft(drafted.read(), bank, KEYS[bank]) for bank in banks])
        publish(self.folder, drafted, self.now)

    def renew(self) -> None:
        """As the server does after half of the timestamp's life."""
        renew_if_due(self.folder, self.now + timedelta(hours=13))

    def look(self) -> SigningKey:
        """What a member of any day sees; the online key that it was signed by."""
        fetcher = FolderFetcher(self.files.repository.folder)
        Mirror(self.folder / "member", self.root, fetcher, "https://repository").look()
        return self.files.load_online()


def _now() -> datetime:
    return datetime.now(UTC)


def test_a_drafted_online_key_changes_nothing_until_it_is_signed(tmp_path: Path) -> None:
    world = Published(tmp_path)
    before = world.look()
    drafted = world.signatories(new_online=True)
    world.renew()
    assert world.look().public == before.public  # the server went on, and members with it
    world.sign(drafted)
    after = world.look()
    assert after.public != before.public
    assert SigningKey.load(world.files.online_key).public == after.public
    assert not world.files.next_online_key.exists()
    world.renew()
    world.look()


def test_after_a_crash_of_the_change_the_key_that_counts_signs(tmp_path: Path) -> None:
    """The root is in place, the file of the key is not yet the next one: renewing works all the same."""
    world = Published(tmp_path)
    world.sign(world.signatories(new_online=True))
    world.files.online_key.replace(world.files.next_online_key)
    SigningKey.generate().save(world.files.online_key)
    world.renew()
    world.look()


def test_a_lost_online_key_is_told_and_the_members_can_sign_another(tmp_path: Path) -> None:
    world = Published(tmp_path)
    world.files.online_key.unlink()
    for attempt in (world.renew, world.signatories):
        with pytest.raises(RunError, match="release keys --new-online-key"):
            attempt()
    assert not world.files.online_key.exists()  # nothing was made up in its place
    drafted = world.signatories(new_online=True)
    named = drafted.read().root
    assert named is not None
    world.sign(drafted)
    assert world.look().public == Signatories.of(named.signed).online


def test_doctor_says_that_the_online_key_is_lost(tmp_path: Path) -> None:
    world = Published(tmp_path)
    assert {subject: level for subject, level, _ in examined(world)}["releases: root"] == OK
    world.files.online_key.unlink()
    ((_, level, said),) = examined(world)
    assert level == FAIL and "--new-online-key" in said


def examined(world: Published) -> list[tuple[str, str, str]]:
    """What doctor says of releases."""
    found = [(finding.subject, finding.level, finding.message) for finding in examine(world.folder, world.now)]
    return [finding for finding in found if finding[0].startswith("releases")]
