"""A release for the one bank of the README's worked example: every file that people send, every request of a sync."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from fedbank.aggregation.rounds import GlobalState
from fedbank.consent import check_acceptance
from fedbank.model.folder import tiny_folder
from fedbank.proposal import Acceptance, Proposal
from fedbank.release.build import Scores
from fedbank.release.contents import WEIGHTS
from fedbank.release.drafts import DraftFolder
from fedbank.release.keys import read_release_key
from fedbank_client.adoption import Adoption
from fedbank_client.cli import client_command
from fedbank_client.home import Home
from fedbank_client.policy import read_policy
from fedbank_client.release_home import ReleaseHome
from fedbank_client.repository_client import RepositoryFetcher
from fedbank_server.campaign_folder import CampaignFolder
from fedbank_server.members import active_members
from fedbank_server.release_files import ReleaseFiles
from fedbank_server.release_of_campaign import Particulars, build_release
from fedbank_server.releases import collect, draft_channel, draft_release, draft_signatories, publish
from fedbank_server.store import CampaignStore

_VARIABLE = ((r"/\d+\.", "/N."), (r"/[0-9a-f]{64}\.", "/SHA256."), (r"releases/[^/]+/", "releases/ID/"))


@dataclass(frozen=True, slots=True)
class Asked:
    """A GET as it came: its path, the bytes of its first line, the line of every header by its name."""

    path: str
    size: int
    headers: dict[str, str]

    @property
    def kind(self) -> str:
        """The path with what differs from one to the next replaced."""
        name = self.path.removeprefix("/v1/releases/")
        for pattern, word in _VARIABLE:
            name = re.sub(pattern, word, name)
        return name


class Serving(BaseHTTPRequestHandler):
    """Serves the files of ``folder`` and ``/health``, and keeps every GET in ``asked`` as it came."""

    folder: Path
    asked: list[Asked]

    def do_GET(self) -> None:
        headers = {name.lower(): f"{name}: {value}\r\n" for name, value in self.headers.items()}
        assert not {"content-length", "transfer-encoding"} & headers.keys()  # a body is not read, so none may come
        self.asked.append(Asked(self.path, len(self.requestline) + 2, headers))
        path = self.folder / self.path.removeprefix("/v1/releases/")
        content = b"ok" if self.path == "/health" else path.read_bytes() if path.is_file() else b""
        self.send_response(200 if content else 404)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Released:
    """Coordinator and bank with a finished campaign; ``address`` serves ``repository`` over the coordinator's TLS."""

    def __init__(self, folder: Path, home: Home, address: str) -> None:
        self._folder, self._home = folder, home
        self._fetcher = RepositoryFetcher(home.tls_context(), (address,))
        self._words = ("--dir", str(home.folder))
        self.signatures: list[Path] = []

    @property
    def repository(self) -> Path:
        """What is served."""
        return ReleaseFiles(self._folder).repository.folder

    def all_of_it(self, proposal: Proposal, consent: Acceptance, state: GlobalState) -> None:
        """Key, first root, release, channel, sync, and signatories anew."""
        folder, now = self._folder, datetime.now(UTC)
        client_command(["release", "key", *self._words])
        self._sign(self._signatories())
        root = self._home.folder / "first.root.json"
        root.write_bytes(ReleaseFiles(folder).repository.first_root() or b"")
        client_command(["release", "trust", str(root), *self._words])
        kept, made = CampaignFolder.of(folder, proposal.campaign), folder / "made"
        checked = check_acceptance(consent, self._home.bank, proposal)
        kept.begin(proposal, (folder / "roster").read_bytes(), {self._home.bank: checked})
        CampaignStore(kept.state).save(state, {})
        about = Particulars(tiny_folder(), "fedbank/tiny-qwen3", "1", "Apache-2.0", "none", None)
        release = build_release(kept, about, Scores("0" * 64, 0, {}, {}), now, made).release
        self._sign(draft_release(folder, made, now), "--no-evaluation")
        self._sign(draft_channel(folder, "stable", release, now))
        self._sync()
        self._sign(self._signatories())

    def _signatories(self) -> DraftFolder:
        named = (self._home.folder / "release-key.json").read_bytes()
        bank, key = read_release_key(named, self._home.consortium, active_members(self._folder).find_key)
        words = {"add": {bank: key}, "remove": [], "threshold": None}
        return draft_signatories(self._folder, self._home.consortium, datetime.now(UTC), **words)  # type: ignore[arg-type]

    def _sign(self, drafted: DraftFolder, *words: str) -> None:
        path = self._home.folder / f"{self._home.bank}-{drafted.folder.name}.signature.json"
        code = client_command(["release", "sign", str(drafted.folder), "-o", str(path), *self._words, *words])
        assert code == 0
        collect(drafted, [path.read_bytes()])
        publish(self._folder, drafted, datetime.now(UTC))
        self.signatures.append(path)

    def _sync(self) -> None:
        """As the command with --yes does it, but for the load, which makes no request."""
        adoption = Adoption(ReleaseHome(self._home), read_policy(self._home.policy), _load, lambda *note: None)
        assert adoption.sync(self._fetcher, self._fetcher.url, "stable", datetime.now(UTC)).changed
        self._fetcher.close()


def _load(adapter: Path) -> None:
    assert (adapter / WEIGHTS).stat().st_size > 0


def signature_fields(path: Path) -> frozenset[str]:
    """What a signature file names, its format aside."""
    return frozenset(json.loads(path.read_bytes())) - {"format"}
