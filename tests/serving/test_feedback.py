"""From a customer's word on an answer to a record that training may see: never without somebody's decision."""

import json
import re
import sqlite3
from pathlib import Path

import pytest
from bank_records import ANSWER, NOW, QUESTION, exchange, open_records, with_exchanges

from fedbank.data.files import Columns, read_inquiries
from fedbank.data.inquiry import Inquiry
from fedbank.data.redact import redact
from fedbank.evidence.errors import EvidenceError
from fedbank.serving.store.conversations import UnknownRequestError
from fedbank.serving.store.database import RecordsError
from fedbank.serving.store.feedback import MAX_COMMENT, FeedbackDesk, FeedbackError

REVIEWER = "f" * 32


@pytest.fixture
def desk(tmp_path: Path) -> FeedbackDesk:
    """Answers r-0 of C-1 and r-1 of C-2."""
    return FeedbackDesk(with_exchanges(tmp_path, "C-1", "C-2")[0])


def test_nothing_enters_training_before_it_is_approved(desk: FeedbackDesk) -> None:
    desk.give("r-0", "C-1", helpful=True, comment="谢谢")
    desk.give("r-1", "C-2", helpful=False)
    assert desk.approved_inquiries() == []
    assert [(one.exchange.request_id, one.helpful, one.comment) for one in desk.listed("candidate")] == [
        ("r-0", True, "谢谢"),
        ("r-1", False, ""),
    ]
    desk.review("r-1", REVIEWER, NOW, approve=False)
    assert desk.approved_inquiries() == []
    decided = desk.review("r-0", REVIEWER, NOW, approve=True)
    assert (decided.state, decided.reviewer) == ("approved", REVIEWER)
    assert [one.exchange.request_id for one in desk.listed("rejected")] == ["r-1"]
    assert desk.approved_inquiries() == [Inquiry(QUESTION, ANSWER, "C-1", "cards", "zh")]


def test_what_was_approved_reads_like_the_banks_own_log(desk: FeedbackDesk, tmp_path: Path) -> None:
    desk.give("r-0", "C-1", helpful=True)
    desk.review("r-0", REVIEWER, NOW, approve=True)
    (inquiry,) = desk.approved_inquiries()
    row = {name: getattr(inquiry, name) for name in ("question", "answer", "customer", "key", "language")}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    columns = Columns("question", "answer", "customer", "key", "language")
    assert read_inquiries(tmp_path / "log.jsonl", "jsonl", columns) == [inquiry]


def test_an_answer_that_did_not_help_is_never_taught(desk: FeedbackDesk) -> None:
    desk.give("r-0", "C-1", helpful=False)
    for corrected in ("", "  \n"):
        with pytest.raises(FeedbackError, match="would repeat the wrong one"):
            desk.review("r-0", REVIEWER, NOW, approve=True, corrected=corrected)
    desk.review("r-0", REVIEWER, NOW, approve=True, corrected="Call 95588.")
    assert [one.answer for one in desk.approved_inquiries()] == ["Call 95588."]


@pytest.mark.parametrize(("request_id", "customer"), [("r-1", "C-1"), ("r-9", "C-1"), ("r-0", ""), ("", "C-1")])
def test_feedback_is_on_ones_own_answers_only(request_id: str, customer: str, desk: FeedbackDesk) -> None:
    with pytest.raises(UnknownRequestError):
        desk.give(request_id, customer, helpful=True)
    assert desk.listed("candidate") == []


def test_one_may_change_ones_mind_until_it_is_decided(desk: FeedbackDesk) -> None:
    desk.give("r-0", "C-1", helpful=True, comment="good")
    desk.give("r-0", "C-1", helpful=False, comment="no, wrong")
    assert [(one.helpful, one.comment) for one in desk.listed("candidate")] == [(False, "no, wrong")]
    desk.review("r-0", REVIEWER, NOW, approve=False)
    with pytest.raises(FeedbackError, match="decided"):
        desk.give("r-0", "C-1", helpful=True)
    for approve in (True, False):
        with pytest.raises(FeedbackError, match="A decision stands"):
            desk.review("r-0", REVIEWER, NOW, approve=approve, corrected="x")


def test_there_is_nothing_to_review_where_nothing_was_said(desk: FeedbackDesk) -> None:
    for request_id in ("r-0", "r-9"):
        with pytest.raises(UnknownRequestError):
            desk.review(request_id, REVIEWER, NOW, approve=True)


def test_a_comment_has_its_limit(desk: FeedbackDesk) -> None:
    desk.give("r-0", "C-1", helpful=True, comment="x" * MAX_COMMENT)
    with pytest.raises(FeedbackError, match="at most 2000 characters, got 2001"):
        desk.give("r-0", "C-1", helpful=True, comment="x" * (MAX_COMMENT + 1))
    assert len(desk.listed("candidate")[0].comment) == MAX_COMMENT


@pytest.mark.parametrize(
    "change",
    [
        "state = 'approved'",
        "state = 'approved', reviewer = 'ffffffffffffffffffffffffffffffff', reviewed_at = 0",
        "helpful = 1, state = 'approved'",
    ],
)
def test_nobody_approves_by_changing_the_database(change: str, desk: FeedbackDesk, tmp_path: Path) -> None:
    desk.give("r-0", "C-1", helpful=False)
    raw = sqlite3.connect(tmp_path / "records.sqlite")
    raw.execute(f"UPDATE fedbank_feedback SET {change}")
    raw.commit()
    raw.close()
    with pytest.raises(RecordsError, match="as this bank sealed it"):
        desk.approved_inquiries()


def test_an_erased_customer_is_in_no_training_record(tmp_path: Path) -> None:
    records, _ = with_exchanges(tmp_path, "C-1", "C-2")
    desk = FeedbackDesk(records)
    for request_id, customer in (("r-0", "C-1"), ("r-1", "C-2")):
        desk.give(request_id, customer, helpful=True)
        desk.review(request_id, REVIEWER, NOW, approve=True)
    records.erase("C-1")
    assert [one.customer for one in desk.approved_inquiries()] == ["C-2"]


def test_the_list_is_bounded_and_oldest_first(tmp_path: Path) -> None:
    from fedbank.serving.store.conversations import Conversations

    records = open_records(tmp_path)
    for number in (2, 0, 1):
        Conversations(records).add(exchange(f"r-{number}", hours=number))
        FeedbackDesk(records).give(f"r-{number}", "C-10023", helpful=True)
    listed = FeedbackDesk(records).listed("candidate", 2)
    assert [one.exchange.request_id for one in listed] == ["r-0", "r-1"]


def test_training_reads_tokens_for_personal_data_as_the_model_is_asked(tmp_path: Path) -> None:
    records, conversations = with_exchanges(tmp_path)
    mine = "我的手机号是13800138000，身份证号11010519491231002X，怎么换号？"
    conversations.add(exchange("r-5", question=mine, answer="您的手机号13800138000可以在柜台更换。"))
    desk = FeedbackDesk(records)
    desk.give("r-5", "C-10023", helpful=False)
    corrected = "13800138000 可以在网点更换，密码是 884422。"
    desk.review("r-5", REVIEWER, NOW, approve=True, corrected=corrected)
    (inquiry,) = desk.approved_inquiries()
    read = redact(mine)
    assert inquiry.question == read.text and inquiry.customer == "C-10023"
    assert next(token for token in read.tokens if token in inquiry.answer)
    assert not {"13800138000", "11010519491231002X", "884422"} & set(re.findall(r"\w{6,}", str(inquiry)))


def test_a_decision_that_the_evidence_cannot_take_is_none(desk: FeedbackDesk) -> None:
    def full() -> None:
        raise EvidenceError("Expected room on the disk, got none.")

    desk.give("r-0", "C-1", helpful=True)
    with pytest.raises(EvidenceError):
        desk.review("r-0", REVIEWER, NOW, approve=True, note=full)
    assert [one.state for one in desk.listed("candidate")] == ["candidate"] and desk.approved_inquiries() == []
    desk.review("r-0", REVIEWER, NOW, approve=True)
