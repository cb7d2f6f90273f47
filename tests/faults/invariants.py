"""What must hold of a consortium at any time, whatever has been killed: read off its folders, nothing is changed.

``Checker(coordinator, banks).check()`` returns every invariant that does not hold, as a sentence (none: all hold):

* committed rounds are a prefix, one adapter each, and every round begins with the adapter of the one before;
* the average is that of the accepted updates, computed again from the signed updates while they are kept;
* no bank, update or key counts twice in a round, and every update was signed by the key that the roster names;
* every bank's ledger verifies, holds each round once and every round that the coordinator accepted an update of;
* the evidence of both sides verifies and names every committed round and every update that was accepted;
* whoever has the released adapter has the one that was committed last, to the byte;
* no log, evidence, history or status holds a secret.

A checker remembers: what it has seen once, in history, ledgers or evidence, must never be gone or changed later.
Processes may run meanwhile: what is out of step only because one of them is just writing is looked at again.
"""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
from safetensors.numpy import load_file

from fedbank.adapter.state import digest
from fedbank.aggregation.terms import CampaignTerms
from fedbank.config import load_campaign
from fedbank.durable import read_lines
from fedbank.errors import FedBankError
from fedbank.evidence.files import read_entry_lines
from fedbank.evidence.log import EVIDENCE
from fedbank.evidence.verify import verify_log
from fedbank.model.folder import tiny_folder
from fedbank.privacy.ledger import LEDGER, read_ledger
from fedbank.sealing.keys import PublicKey, SigningKey
from fedbank_client.home import TRAINING, read_home
from fedbank_server.campaign_folder import CampaignFolder
from fedbank_server.consortium import Files, read_consortium
from fedbank_server.history import CommittedLine, recompute
from fedbank_server.members import active_members
from fedbank_server.nodes import CoordinatorKeys
from fedbank_server.run import Prepared, campaign_terms
from fedbank_server.store import CampaignStore

_LOOKS, _PAUSE_S = 4, 0.5
_SPOKEN = (".log", ".jsonl", ".checkpoints", ".json", ".head", ".html", ".prom")
_LEAST_SECRET = 16


@dataclass
class Checker:
    """Of one consortium: ``banks`` are the folders by name, ``base`` the base model's, ``secrets`` further secrets.

    ``logs`` are files elsewhere that must not hold a secret either.
    """

    coordinator: Path
    banks: Mapping[str, Path]
    base: Path = field(default_factory=tiny_folder)
    secrets: tuple[bytes, ...] = ()
    logs: tuple[Path, ...] = ()
    _histories: dict[Path, list[bytes]] = field(default_factory=dict)
    _charges: dict[str, list[str]] = field(default_factory=dict)
    _notes: dict[Path, str] = field(default_factory=dict)
    _entries: dict[Path, int] = field(default_factory=dict)

    def check(self, *, ended: bool = False) -> list[str]:
        """Every violation; ``ended``: nothing runs, and the last campaign is complete and was handed out."""
        for look in range(1 if ended else _LOOKS):
            time.sleep(_PAUSE_S if look else 0)
            found = list(dict.fromkeys(self._look(ended=ended)))
            if not found:
                return []
        return found

    def rounds(self) -> int:
        """Rounds that were committed, of all campaigns."""
        return sum(len(read_lines(folder.history)) for folder in self._campaigns())

    def _campaigns(self) -> list[CampaignFolder]:
        found = map(CampaignFolder, sorted((self.coordinator / "campaigns").glob("*/")))
        return [folder for folder in found if folder.began]

    def _look(self, *, ended: bool) -> Iterator[str]:
        wanted: dict[str, set[tuple[str, int, str]]] = {bank: set() for bank in self.banks}
        committed: list[tuple[str, dict[str, Any]]] = []
        for folder in self._campaigns():
            try:
                campaign = _Campaign.read(self.coordinator, folder, self.base)
            except (FedBankError, ValueError, KeyError, TypeError) as error:
                yield f"{folder.folder.name}: cannot be read: {error}"
                continue
            yield from self._kept_history(folder)
            yield from campaign.violations(self.banks, ended=ended)
            committed += [(campaign.terms.campaign, line) for line in campaign.lines]
            for line in campaign.lines if campaign.private else []:
                for bank in line["accepted"].keys() & wanted.keys():
                    wanted[bank].add((campaign.terms.campaign, line["round"], line["base"]))
        for bank in self.banks:
            yield from self._ledger(bank, wanted[bank])
        yield from self._all_evidence(committed, ended=ended)
        yield from self._leaks()

    def _kept_history(self, folder: CampaignFolder) -> Iterator[str]:
        lines, before = read_lines(folder.history), self._histories.get(folder.folder, [])
        if lines[: len(before)] != before:
            yield f"{folder.folder.name}: a committed round is gone from the history, or was changed"
        else:
            self._histories[folder.folder] = lines

    def _ledger(self, bank: str, wanted: set[tuple[str, int, str]]) -> Iterator[str]:
        path, before = self.banks[bank] / TRAINING / LEDGER, self._charges.get(bank, [])
        if not path.exists():
            if wanted or before:
                yield f"{bank}: its ledger is gone"
            return
        try:
            book = read_ledger(path)
        except FedBankError as error:
            yield f"{bank}: its ledger does not verify: {error}"
            return
        if book.hashes[: len(before)] != before:
            yield f"{bank}: its ledger became shorter or was rewritten"
        else:
            self._charges[bank] = list(book.hashes)
        charged = Counter((charge.campaign, charge.round, charge.base_digest) for charge in book.charges)
        for campaign, number, _ in sorted(wanted - charged.keys()):
            yield f"{bank}: its update to round {number} of {campaign} was accepted and is not charged"
        for (campaign, number, _), count in charged.items():
            if count > 1:
                yield f"{bank}: round {number} of {campaign} is charged {count} times"

    def _all_evidence(self, committed: list[tuple[str, dict[str, Any]]], *, ended: bool) -> Iterator[str]:
        """A round's entry follows on its commit: while the campaign runs, the last one may still be missing."""
        members = active_members(self.coordinator)
        noted: dict[str, set[str]] = {}
        for name, folder in (("coordinator", self.coordinator), *self.banks.items()):
            key = members.find_key(name) if name in self.banks else Files(self.coordinator).public_key()
            try:
                noted[name] = self._evidence(folder / EVIDENCE, key)
            except (FedBankError, ValueError) as error:
                yield f"{name}: its evidence does not verify: {error}"
                noted[name] = set()
                committed = []
        for number, (campaign, line) in enumerate(committed, start=1):
            if line["adapter"] not in noted["coordinator"] and (ended or number < len(committed)):
                yield f"coordinator: its evidence does not name round {line['round']} of {campaign}"
            for bank in line["accepted"].keys() & self.banks.keys():
                if f"{campaign}, round {line['round']}" not in noted[bank]:
                    yield f"{bank}: its evidence does not name its update to round {line['round']} of {campaign}"

    def _evidence(self, path: Path, key: PublicKey | None) -> set[str]:
        """Adapters that were committed and updates that were sent, by the evidence in ``path``."""
        if not path.exists() and path not in self._entries:
            return set()
        earlier = [self._notes[path]] if self._notes.get(path) else []
        found = verify_log(path, key.raw if key is not None else None, earlier)
        if found.entries < self._entries.get(path, 0):
            raise ValueError(f"{found.entries} entries, where {self._entries[path]} have been")
        self._entries[path], self._notes[path] = found.entries, found.note
        entries = [json.loads(line) for line in read_entry_lines(path, last=found.entries + 10)]
        committed = {entry["object"] for entry in entries if entry["action"] == "round-committed"}
        return committed | {entry["result"] for entry in entries if entry["action"] == "update-sent"}

    def _leaks(self) -> Iterator[str]:
        """Files that people read or pass on, against every secret of either side in every usual form."""
        names = [*Files(self.coordinator).secrets()]
        for home in self.banks.values():
            names += [*read_home(home).secrets(), *home.glob(f"{TRAINING}/keys/*.key")]
        secrets = {form: path.name for path in names for form in _forms(path)}
        secrets |= {form: "a secret that was given" for form in self.secrets if len(form) >= _LEAST_SECRET}
        everywhere = itertools.chain(self.coordinator.rglob("*"), *(home.rglob("*") for home in self.banks.values()))
        for path in (*self.logs, *everywhere):
            if path.suffix in _SPOKEN and (content := _content(path)):
                for form in secrets:
                    if form in content:
                        yield f"{path.name} in {path.parent.name} holds the secret of {secrets[form]}"


@dataclass(frozen=True, slots=True)
class _Campaign:
    """One campaign as the coordinator's folder has it now; ``lines`` are those of its history."""

    folder: CampaignFolder
    terms: CampaignTerms
    keys: Mapping[str, str]
    private: bool
    lines: list[dict[str, Any]]
    read_twice: list[str]

    @classmethod
    def read(cls, coordinator: Path, folder: CampaignFolder, base: Path) -> "_Campaign":
        """Errors if a file of it is damaged."""
        consortium, proposal = read_consortium(coordinator), folder.proposal()
        roster = folder.roster(Files(coordinator).public_key())
        keys = CoordinatorKeys(SigningKey.derived("unused"), roster.find_key)
        spec = proposal.adapter_spec(base)
        prepared = Prepared(coordinator, consortium, load_campaign([]), proposal, spec, folder, keys)
        terms = campaign_terms(prepared, folder.accepted(), roster.digest())
        twice: list[str] = []

        def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            twice.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            return dict(pairs)

        lines = [json.loads(line, object_pairs_hook=once) for line in read_lines(folder.history)]
        known = {bank: member.signing_key.hex() for bank, member in roster.members.items()}
        return cls(folder, terms, known, proposal.terms.privacy.epsilon is not None, lines, twice)

    def violations(self, banks: Mapping[str, Path], *, ended: bool) -> Iterator[str]:
        name = self.terms.campaign
        for text in itertools.chain(self._prefix(), self._counted(), self._state(), self._aggregate()):
            yield f"{name}: {text}"
        if ended and len(self.lines) != self.terms.num_rounds:
            yield f"{name}: {len(self.lines)} of {self.terms.num_rounds} rounds are committed"
        for text in self._released(banks, ended=ended):
            yield f"{name}: {text}"

    def _prefix(self) -> Iterator[str]:
        numbers = [line["round"] for line in self.lines]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"the committed rounds are no prefix, each once: {numbers}"
        for before, after in itertools.pairwise(self.lines):
            if after["base"] != before["adapter"]:
                yield f"round {after['round']} does not begin with the adapter of round {before['round']}"

    def _counted(self) -> Iterator[str]:
        if self.read_twice:
            yield f"counted twice in a round: {', '.join(self.read_twice)}"
        seen: Counter[str] = Counter()
        for line in self.lines:
            accepted = line["accepted"]
            seen.update(value["digest"] for value in accepted.values())
            if len({value["key"] for value in accepted.values()}) < len(accepted):
                yield f"one key signed for two banks in round {line['round']}"
            for bank, value in accepted.items():
                if value["key"] != self.keys.get(bank) or value["weight"] != self.terms.weights.get(bank):
                    yield f"round {line['round']} counts {bank} with another key or weight than agreed"
            if len(accepted) < self.terms.needed(len(self.terms.weights)):
                yield f"round {line['round']} was committed below the quorum, with {len(accepted)} updates"
        yield from (f"the update {found[:12]} counts {count} times" for found, count in seen.items() if count > 1)

    def _state(self) -> Iterator[str]:
        """The state is that of the last line, or one round ahead of it: the commit is the state's file."""
        state = CampaignStore(self.folder.state)
        try:
            found = state.load(self.terms.adapter)
        except FedBankError as error:
            yield str(error)
            return
        last = len(self.lines)
        number = found.round if found is not None else 0
        if number not in (last, last + 1):
            yield f"the state is of round {number}, the history ends with round {last}"
        elif found is not None and number == last and found.digest() != self.lines[-1]["adapter"]:
            yield f"the state holds another adapter than was committed in round {last}"

    def _aggregate(self) -> Iterator[str]:
        """Of the last round: updates before it are kept no longer."""
        if not self.lines:
            return
        line = CommittedLine(**self.lines[-1])
        try:
            change = recompute(self.terms, line, CampaignStore(self.folder.state).rounds)
        except (FedBankError, KeyError) as error:
            yield f"the average of round {line.round} cannot be computed again: {error}"
            return
        if change != line.change:
            yield f"the average of round {line.round} is not that of the accepted updates"

    def _released(self, banks: Mapping[str, Path], *, ended: bool) -> Iterator[str]:
        parts = (self.folder.folder.name, "adapter", "adapter_model.safetensors")
        mine = self.folder.folder.parent.joinpath(*parts)
        if not mine.exists():
            if ended:
                yield "the adapter was not written"
            return
        if not self.lines or digest(load_file(mine)) != self.lines[-1]["adapter"]:
            yield "the released adapter is not the one that was committed last"
        for bank in self.terms.weights.keys() & banks.keys():
            theirs = banks[bank].joinpath("campaigns", *parts)
            if theirs.exists() and theirs.read_bytes() != mine.read_bytes():
                yield f"{bank} has another adapter than the coordinator released"
            elif ended and not theirs.exists():
                yield f"{bank} has not received the adapter"


def _forms(path: Path) -> Iterable[bytes]:
    """A secret file's content, and the key in it, as they would look in a text."""
    content = _content(path)
    raw = [content.strip(), *(line for line in content.split() if len(line) >= 40)]
    for load in (load_pem_private_key, load_ssh_private_key):
        try:
            key: Any = load(content, None)
        except (ValueError, TypeError):
            continue
        raw.append(key.private_bytes_raw() if hasattr(key, "private_bytes_raw") else _number(key))
    hexadecimal = [form.hex().encode() for form in raw]
    return {form for form in (*raw, *hexadecimal) if len(form) >= _LEAST_SECRET}


def _number(key: Any) -> bytes:
    """The secret number of a key on an elliptic curve."""
    value: int = key.private_numbers().private_value
    return value.to_bytes((key.key_size + 7) // 8, "big")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except FileNotFoundError:  # replaced meanwhile
        return b""
