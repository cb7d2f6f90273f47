"""What the coordinator keeps of the banks' ledgers and processes, hands back, and when it says that two live."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from grid_consortium import GridConsortium
from numeric_bank import NumericBank, numeric_app, numeric_keys, numeric_terms

from fedbank.adapter.heads import NO_LINES, LedgerHead
from fedbank.adapter.update import PAYLOAD, RECORD, RoundRequest, Update
from fedbank.errors import RunError
from fedbank_server.heads import Heads
from fedbank_server.nodes import Nodes, Timing
from fedbank_server.post import Post
from fedbank_simulations.inline import InlineGrid

CONSORTIUM_TERMS = numeric_terms(banks=1)


def line(lines: int, copy: str = "a") -> LedgerHead:
    """The head after so many lines of the ledger in the folder ``copy``."""
    return LedgerHead(lines, f"{copy}{lines:063x}") if lines else NO_LINES


HANDED_BACK = {
    "a bank that nobody has heard of": ([], line(0), line(0)),
    "a bank that has charged nothing": ([line(0)], line(0), line(0)),
    "the one ledger, as it was heard last": ([line(0), line(2), line(3)], line(3), line(2)),
    "the one ledger, charged since it was heard": ([line(0), line(2), line(3)], line(4), line(3)),
    "a copy from before, which has spent nothing": ([line(0), line(2), line(3)], line(2), line(3)),
    "a copy without any charge": ([line(0), line(2), line(3)], line(0), line(3)),
    "a copy that has spent as much": ([line(2), line(3)], line(3, "b"), line(3)),
    "a copy that has spent more, once it was heard": ([line(3), line(9, "b")], line(9, "b"), line(3)),
    "the original, when a copy that spent more was heard": ([line(3), line(9, "b")], line(3), line(9, "b")),
}


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize(("heard", "own", "expected"), HANDED_BACK.values(), ids=HANDED_BACK.keys())
def test_a_bank_is_handed_back_the_longest_head_that_is_not_its_own(
    tmp_path: Path, heard: list[LedgerHead], own: LedgerHead, expected: LedgerHead, restarted: bool
) -> None:
    heads = Heads(tmp_path / "heads")
    for head in heard:
        heads.report("bank-1", head)
        if restarted:
            heads = Heads(tmp_path / "heads")
    assert heads.hand_back("bank-1", own) == expected
    assert heads.hand_back("bank-2", own) == NO_LINES, "every bank has its own"


def test_whoever_deletes_a_banks_file_makes_the_coordinator_forget(tmp_path: Path) -> None:
    heads = Heads(tmp_path)
    heads.report("bank-1", line(7))
    (tmp_path / "bank-1.json").unlink()
    assert heads.hand_back("bank-1", line(2)) == NO_LINES


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"head": "7", "before": "", "twins": []}', "\x00" * 40])
def test_a_damaged_file_is_said_and_not_taken_for_a_new_bank(tmp_path: Path, content: str) -> None:
    heads = Heads(tmp_path)
    heads.report("bank-1", line(7))
    (tmp_path / "bank-1.json").write_text(content)
    with pytest.raises(RunError, match=r"Expected what was last seen of the ledger of bank-1.*backup"):
        heads.hand_back("bank-1", line(2))


def test_the_names_of_banks_stay_in_the_folder(tmp_path: Path) -> None:
    Heads(tmp_path / "heads").report("../../bank", line(7))
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["heads"]


class HeldGrid(InlineGrid):
    """Two nodes whose questions wait until the test says which process answers them."""

    def __init__(self) -> None:
        super().__init__(ClientApp(), {1: {}, 2: {}})
        self.held: dict[int, Message] = {}
        self._answers: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            ids.append(str(uuid4()))
            message.metadata.__dict__["_message_id"] = ids[-1]
            self.held[message.metadata.dst_node_id] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        answers, self._answers = self._answers, []
        return answers

    def answer(self, node: int, app: ClientApp) -> None:
        self._answers.append(app(self.held.pop(node), Context(1, node, {}, RecordDict(), {})))


class Listener:
    """The coordinator's list of nodes, and processes of the one bank by letters."""

    def __init__(self, folder: Path) -> None:
        self.bank = NumericBank("bank-1", CONSORTIUM_TERMS, folder / "bank-1")
        self.grid, self.heads = HeldGrid(), Heads(folder / "heads")
        self._post = Post(self.grid)
        keys = numeric_keys(CONSORTIUM_TERMS)
        self.nodes = Nodes(self.grid, self._post, CONSORTIUM_TERMS, keys, Timing(), self.heads)
        self._apps: dict[str, ClientApp] = {}
        self._now = 0.0

    def ask(self) -> None:
        """Ask every node that has answered, again."""
        self._now += 30.0
        assert self.nodes.refresh(self._now)

    def hear(self, node: int, process: str) -> None:
        """That process answers what the node was asked."""
        app = self._apps.setdefault(process, numeric_app(self.bank))
        self.grid.answer(node, app)
        for asked, message in self._post.receive(self._now):
            self.nodes.answered(asked, message.content.config_records[RECORD][PAYLOAD])  # type: ignore[arg-type]

    def verdict(self) -> tuple[int, bool]:
        """At which node the bank is, and whether two live."""
        seat, doubt = self.nodes.seat("bank-1"), self.nodes.doubt("bank-1")
        assert seat is not None
        assert (doubt is not None and doubt.check == "twin") == seat.twin
        return seat.node, seat.twin


HEARD: dict[str, tuple[list[str], tuple[int, bool]]] = {
    "one process": (["ask", "1A", "ask", "1A", "ask", "1A"], (1, False)),
    "one process that moved": (["ask", "1A", "ask", "2A"], (2, False)),
    "a restart": (["ask", "1A", "ask", "1B", "ask", "1B"], (1, False)),
    "two restarts": (["ask", "1A", "ask", "1B", "ask", "1C", "ask", "1C"], (1, False)),
    "a late answer of the process before": (["ask", "2A", "ask", "1B", "2A", "ask", "1B"], (1, False)),
    "the process before, asked since": (["ask", "1A", "ask", "1B", "ask", "1A"], (1, True)),
    "two at two nodes": (["ask", "1A", "2B", "ask", "1A"], (1, True)),
    "two at two nodes, the other's turn": (["ask", "1A", "2B", "ask", "1A", "2B", "ask", "2B"], (2, True)),
    "the first of three": (["ask", "1A", "ask", "1B", "ask", "1C", "ask", "1A"], (1, True)),
    "a restart after two were heard": (["ask", "1A", "ask", "1B", "ask", "1A", "ask", "1C"], (1, False)),
}


@pytest.mark.parametrize(("events", "expected"), HEARD.values(), ids=HEARD.keys())
def test_two_processes_are_told_from_restarts_and_from_late_answers(
    tmp_path: Path, events: list[str], expected: tuple[int, bool]
) -> None:
    listener = Listener(tmp_path)
    for event in events:
        if event == "ask":
            listener.ask()
        else:
            listener.hear(int(event[0]), event[1:])
    assert listener.verdict() == expected


def test_a_process_that_was_heard_in_turn_is_told_after_a_restart_of_the_coordinator_too(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    for event in ("1A", "1B", "1A"):
        listener.ask()
        listener.hear(1, event[1:])
    again = Listener(tmp_path)
    again._apps = listener._apps
    again.ask()
    again.hear(1, "B")
    assert again.verdict() == (1, True)


def test_an_older_ledger_is_named_in_the_coordinators_evidence(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    doubts = []
    for head in (line(3), line(4), line(2), line(4, "b"), line(4)):
        listener.bank.ledger_head = head
        listener.ask()
        listener.hear(1, "A")
        doubt = listener.nodes.doubt("bank-1")
        doubts.append(doubt.check if doubt else None)
    assert doubts == [None, None, "ledger", "ledger", None]


@dataclass
class ToldBank(NumericBank):
    """Keeps what each call told it; its ledger grows by a line a round."""

    told: list[RoundRequest] = field(default_factory=list)

    def train(self, request: bytes) -> Update:
        self.told.append(RoundRequest.from_bytes(request, self.terms.adapter))
        return super().train(request)

    def head(self) -> LedgerHead:
        charged = len(self.charged())
        return line(charged + 1 if charged else 0)


def _told(consortium: GridConsortium, heads: Heads, **options: Any) -> ToldBank:
    bank = ToldBank("bank-1", consortium.terms, consortium.folder / "bank-1")
    bank.act = lambda update: update
    consortium.banks["bank-1"] = bank
    consortium.restart("bank-1")
    consortium.run(heads=heads, **options)
    return bank


def test_every_call_hands_back_a_head_and_names_the_adapter_before(tmp_path: Path) -> None:
    consortium = GridConsortium(tmp_path, rounds=3)
    heads = Heads(tmp_path / "heads")
    heads.report("bank-1", line(9, "b"))
    bank = _told(consortium, heads)
    lines = consortium.store.history.lines()
    assert [request.previous for request in bank.told] == ["", lines[0].base, lines[1].base]
    assert {request.head for request in bank.told} == {line(9, "b")}
    assert not any(request.twin for request in bank.told)


def test_what_a_bank_charged_is_known_for_the_next_campaign_as_soon_as_its_update_counts(tmp_path: Path) -> None:
    """From the update itself: nobody has to ask who is there again before a copy of the folder can answer."""
    consortium = GridConsortium(tmp_path, rounds=2)

    def told(update: Update) -> Update:
        return Update(update.campaign, update.round, update.bank, update.base_digest, update.plan_digest, 5,
                      update.tensors, None, line(update.round + 1))  # fmt: skip

    consortium.banks["bank-1"].act = told
    consortium.run(heads=Heads(tmp_path / "heads"))
    kept = json.loads((tmp_path / "heads" / "bank-1.json").read_text())
    assert (kept["head"], kept["before"]) == (line(3).to_text(), line(2).to_text())
    assert Heads(tmp_path / "heads").hand_back("bank-1", line(0)) == line(3)


def test_two_processes_of_one_bank_are_told_so_and_named(tmp_path: Path) -> None:
    consortium = GridConsortium(tmp_path, rounds=4, quorum=3)
    bank = ToldBank("bank-1", consortium.terms, consortium.folder / "bank-1")
    consortium.banks["bank-1"] = bank
    for node in (11, 21):
        consortium.grid.start(node, numeric_app(bank))
    for other in consortium.banks.values():
        other.seconds = 0.25
    consortium.run(heads=Heads(tmp_path / "heads"))
    assert bank.told[-1].twin and not bank.told[0].twin
    named = [refused for _, refused in consortium.seen.refusals if refused.check == "twin"]  # type: ignore[attr-defined]
    assert named and {refused.bank for refused in named} == {"bank-1"}
    assert "two in turn" in named[0].reason and "bank-1" in named[0].reason
