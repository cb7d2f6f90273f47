"""A release by the commands that people use: from a campaign to what a bank adopts, and what a coordinator cannot do.

Real processes, real TLS, the real tiny model. One consortium serves all of it, since starting one takes a while.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alliance import Alliance

from fedbank.data.synthetic import SyntheticSpec, generate
from fedbank.release.drafts import DraftFolder
from fedbank.release.repository import Repository
from fedbank.sealing.keys import SigningKey

pytestmark = pytest.mark.slow
BANKS = ("bank-a", "bank-b", "bank-c")


class Members(Alliance):
    """An alliance with a finished campaign, and the commands about releases in short."""

    def campaign(self, name: str) -> None:
        self.start_campaign(f"name={name}", "training.rounds=1", "privacy.epsilon=3")
        assert self.wait_end("campaign", 240) == 0, self.logs()

    def server(self, *words: str) -> str:
        return self.run("server", *words, "--dir", str(self.coordinator))

    def client(self, bank: str, *words: str) -> str:
        return self.run("client", *words, "--dir", str(self.home(bank)))

    def draft(self) -> Path:
        """The one open draft."""
        (found,) = (self.coordinator / "releases" / "drafts").glob("[!.]*")
        return found

    def sign(self, *banks: str, words: tuple[str, ...] = ("--no-evaluation",)) -> list[str]:
        """Signature files of ``banks`` under the open draft."""
        files = []
        for bank in banks:
            files.append(str(self.folder / f"{bank}.sig"))
            self.client(bank, "release", "sign", str(self.draft()), "-o", files[-1], *words)
        return files

    def publish(self, *banks: str) -> str:
        return self.server("release", "publish", self.draft().name, *self.sign(*banks))

    def sync(self, bank: str) -> str:
        seed = f"seed={self.banks.index(bank)}"
        return self.client(bank, "sync", "--yes", seed, "data.customers=400", "threads=1")

    @property
    def repository(self) -> Repository:
        """What members fetch from."""
        return Repository(self.coordinator / "releases" / "repository")

    def refuses(self, bank: str, words: str, keeps: str) -> None:
        """A sync of ``bank`` fails with ``words``, and what it serves stays."""
        with pytest.raises(RuntimeError, match=words):
            self.sync(bank)
        assert self.adopted(bank) == keeps

    def adopted(self, bank: str) -> str | None:
        shown = json.loads(self.client(bank, "releases", "--json"))
        return shown["adopted"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    made = Members(tmp_path_factory.mktemp("alliance"))
    try:
        made.start_server()
        for bank in made.banks:
            made.start_bank(bank)
        made.wait_online()
        made.campaign("spring")
        for bank in made.banks:
            made.client(bank, "release", "key")
        keys = [str(made.home(bank) / "release-key.json") for bank in made.banks]
        made.server("release", "keys", "--add", *keys)
        made.publish("bank-a", "bank-b")
        root = made.folder / "root.json"
        root.write_text(made.server("release", "root"))
        for bank in made.banks:
            made.client(bank, "release", "trust", str(root))
        yield made
    finally:
        made.close()


def test_a_campaign_becomes_a_release_that_every_bank_adopts_and_goes_back_from(members: Members) -> None:
    suite = members.folder / "suite.jsonl"
    rows = generate(SyntheticSpec(40), seed=99)
    fields = ({"question": row.question, "answer": row.answer, "customer": row.customer} for row in rows)
    suite.write_text("".join(json.dumps(row) + "\n" for row in fields), "utf-8")
    members.server("release", "propose", "--suite", str(suite))
    first = members.draft().name.removeprefix("release-")
    review = members.client(
        "bank-a", "release", "review", str(members.draft()), "--suite", str(suite), "seed=0", "data.customers=400"
    )
    for line in ("ok   privacy: ", "ok   noise: ", "ok   result: ", "ok   suite: ", "look own customers: nll "):
        assert line in review, review
    with pytest.raises(RuntimeError, match=r"Expected signatures of 2 banks, got 1 \(bank-a\)\. Nothing was published"):
        members.publish("bank-a")
    members.publish("bank-a", "bank-c")
    assert "names no release yet" in members.sync("bank-b")
    members.server("release", "promote", first)
    members.publish("bank-b", "bank-c")
    for bank in BANKS:
        assert f"Adopted {first}, signed by bank-b, bank-c" in members.sync(bank)
    kept = members.home("bank-a") / "releases" / first
    verified = json.loads(members.run("verify", str(kept), "--root", str(members.folder / "root.json"), "--json"))
    ours = json.loads((kept / "adapter" / "manifest.json").read_bytes())
    assert verified["adapter_digest"] == ours["adapter"]["digest"] and verified["threshold"] == 2
    assert _imported(kept, members.folder / "root.json") == []

    last_week = members.folder / "last-week"
    shutil.copytree(members.repository.folder, last_week)
    members.campaign("autumn")
    members.server("release", "propose", "--suite", str(suite))
    second = members.draft().name.removeprefix("release-")
    members.publish("bank-a", "bank-b")
    members.server("release", "promote", second)
    members.publish("bank-a", "bank-b")
    with _one_tensor_swapped(members, second):
        members.refuses("bank-c", "Expected the bytes that the members signed, got others", first)
    members.sync("bank-a")
    assert members.adopted("bank-a") == second
    members.client("bank-a", "rollback")
    assert members.adopted("bank-a") == first
    assert "was rolled back here" in members.sync("bank-a")
    members.server("release", "rollback")
    members.publish("bank-b", "bank-c")
    members.sync("bank-b")
    assert members.adopted("bank-b") == first

    _published_alone(members, second)
    members.refuses("bank-b", "Expected metadata that enough signatories signed, got another", first)
    shutil.rmtree(members.repository.folder)
    shutil.copytree(last_week, members.repository.folder)
    members.refuses("bank-a", "Expected the newest metadata, got an older or a mixed one", first)


def _published_alone(members: Members, release: str) -> None:
    """A coordinator lets the channel name ``release``: by its command, and then by hand, with the key that it has."""
    members.server("release", "promote", release)
    with pytest.raises(RuntimeError, match=r"got 0 \(none\)\. Nothing was published"):
        members.server("release", "publish", members.draft().name)
    targets = DraftFolder(members.draft()).read().targets
    assert targets is not None
    path = members.repository.metadata / f"{targets.signed.version}.targets.json"
    path.write_bytes(targets.to_bytes())
    members.repository.renew(SigningKey.load(members.coordinator / "releases" / "online.key"), datetime.now(UTC))


@contextmanager
def _one_tensor_swapped(members: Members, release: str) -> Iterator[None]:
    """One number of the served adapter is another one."""
    (path,) = (members.repository.targets / "releases" / release).glob("*.adapter_model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-4] + bytes(4))
    yield
    path.write_bytes(content)


def _imported(release: Path, root: Path) -> list[str]:
    """Modules of torch that ``fedbank verify`` imports."""
    import subprocess

    words = ["-X", "importtime", "-m", "fedbank.cli", "verify", str(release), "--root", str(root)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    return [line for line in done.stderr.splitlines() if "torch" in line]
