"""A refusal has no signature: it is told with the node that it came from, and with the bank whose key that node has."""

from collections.abc import Mapping
from typing import Any

import pytest
from fault_grid import FaultGrid
from flwr.app import Context, Error, Message, RecordDict
from grid_consortium import QUICK, GridConsortium, Seen
from numeric_bank import key_of, numeric_app

from fedbank.adapter.update import COORDINATOR
from fedbank.config import load_campaign
from fedbank.errors import RunError
from fedbank.membership.terms import DeadlineRule
from fedbank.proposal import Proposal
from fedbank.sealing.roster import Roster, sign_roster
from fedbank_server.asking import ask_all
from fedbank_server.proposals import Invited, check_quorum, gather
from fedbank_server.speakers import Speakers, reason_of


class NamedGrid(FaultGrid):
    """Knows its nodes by name, as the deployed grid does."""

    def __init__(self, apps: dict[int, Any], names: Mapping[str, int]) -> None:
        super().__init__(apps)
        self.names = dict(names)

    def banks(self) -> Mapping[str, int]:
        return self.names


def saying(reason: str | None, code: int = 100) -> Any:
    return lambda message, context: Message(Error(code, reason), reply_to=message)


def heard(grid: FaultGrid, count: int) -> list[tuple[bytes | None, str, str]]:
    found: list[tuple[bytes | None, str, str]] = []

    def take(content: bytes | None, refusal: str, who: str) -> bool:
        found.append((content, refusal, who))
        return len(found) == count

    ask_all(grid, "query.propose", b"x", take, 5.0, lambda: False)
    return found


def test_whoever_refuses_is_named_by_the_key_of_its_node() -> None:
    grid = NamedGrid({12: saying("refused [/x]"), 13: saying("no\x1b[2J"), 14: saying(None)}, {"bank-2": 12, "b": 13})
    assert sorted(heard(grid, 3), key=lambda one: one[2]) == [
        (None, "refused [/x]", "node 12 (bank-2)"),
        (None, "no?[2J", "node 13 (b)"),
        (None, "no reason was given", "node 14"),
    ]


def test_a_bank_that_is_gone_since_keeps_its_name_and_a_grid_without_names_gives_numbers() -> None:
    grid = NamedGrid({}, {"bank-2": 12})
    speakers = Speakers(grid)
    assert speakers.describe(12) == "node 12 (bank-2)"
    grid.names.clear()
    assert (speakers.bank(12), speakers.bank(13)) == ("bank-2", "")
    assert Speakers(FaultGrid({})).describe(12) == "node 12"


@pytest.mark.parametrize("reason", [None, "", "x" * 1_000_000, "\ud800\x1b\u202e\n"])
def test_the_reason_of_an_error_is_one_short_line(reason: str | None) -> None:
    said = reason_of(Error(100, reason))
    assert said and said.isprintable() and len(said) <= 200


def test_the_operator_reads_which_banks_refused_a_campaign() -> None:
    grid = NamedGrid({12: saying("refused [/x]"), 13: saying("late", code=2)}, {"bank-2": 12, "bank-3": 13})
    roster = Roster("Test", 1, key_of(COORDINATOR).public, {})
    proposal = Proposal.of("Test", "b" * 64, load_campaign([]))
    invited = Invited(proposal, roster, sign_roster(roster, key_of(COORDINATOR)), key_of(COORDINATOR))
    answers = gather(grid, invited, {"bank-2"}, 1.0, lambda: False)
    said = "node 12 (bank-2): refused [/x]; node 13 (bank-3): it failed to answer"
    with pytest.raises(RunError) as error:
        check_quorum(answers.accepted, {"bank-2", "bank-3"}, 2, {}, answers.refusals)
    assert said in str(error.value)


def test_an_answer_to_who_is_there_that_proves_nothing_is_told_with_the_banks_name(tmp_path: Any) -> None:
    rule = DeadlineRule(factor=1.0, floor_s=0.5, ceiling_s=0.5)
    consortium = GridConsortium(tmp_path, quorum=2, deadline=rule, rounds=1)
    liar = consortium.nodes["bank-2"]
    apps = {consortium.nodes[name]: numeric_app(consortium.banks[name]) for name in ("bank-1", "bank-3")}
    consortium.grid = NamedGrid({**apps, liar: saying("[/x]")}, consortium.nodes)
    assert consortium.run(QUICK).round == 1
    seen = consortium.seen
    assert isinstance(seen, Seen)
    assert ("bank-2", "refusal", "[/x]") in {(one.bank, one.check, one.reason) for _, one in seen.refusals}
    assert consortium.status.last_error == f"node {liar} (bank-2): [/x]"


def test_a_message_of_flower_without_a_record_is_refused_by_name() -> None:
    def nothing(message: Message, context: Context) -> Message:
        return Message(RecordDict({}), reply_to=message)

    ((content, refusal, who),) = heard(NamedGrid({12: nothing}, {"bank-2": 12}), 1)
    assert (content, refusal, who) == (None, "it answered with something else", "node 12 (bank-2)")
