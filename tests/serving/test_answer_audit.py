"""The bank's evidence of every answer: an entry that anybody can verify and that holds no word of it."""

from pathlib import Path
from typing import Any

import pytest

from fedbank.evidence.log import EvidenceLog
from fedbank.evidence.verify import verify_log
from fedbank.sealing.keys import SigningKey
from fedbank.serving.store.audit import AnswerAudit, Answered, AuditError

KEY = SigningKey.derived("serving audit")
GOOD: dict[str, Any] = {
    "request_id": "req_3fQ-9",
    "principal": "a" * 32,
    "customer": "b" * 32,
    "release": "c" * 64,
    "policies": {"redact": "2", "notice": "1.0"},
    "prompt_tokens": 120,
    "answer_tokens": 48,
}


def test_every_answer_has_its_entry_and_the_log_verifies(tmp_path: Path) -> None:
    with EvidenceLog(tmp_path / "evidence.jsonl", "bank-a/serving", KEY) as log:
        audit = AnswerAudit(log)
        audit.answered(Answered(**GOOD))
        audit.answered(Answered(**(GOOD | {"release": "none", "policies": {}, "outcome": "refused"})))
        audit.reviewed("req_3fQ-9", approved=True, by="d" * 32)
        audit.erased("b" * 32, 4, by="e" * 32)
        entries = [entry for action in ("answer", "review-feedback", "erase-customer") for entry in log.entries(action)]
    policies = "policies notice/1.0 redact/2"
    assert [(entry.actor[0], entry.object, entry.result) for entry in entries] == [
        ("a", "req_3fQ-9", f"answered; 120+48 tokens; release {'c' * 64}; customer {'b' * 32}; {policies}"),
        ("a", "req_3fQ-9", f"refused; 120+48 tokens; release none; customer {'b' * 32}; policies none"),
        ("d", "req_3fQ-9", "approved"),
        ("e", "b" * 32, "4 rows"),
    ]
    assert verify_log(tmp_path / "evidence.jsonl", KEY.public.raw).entries == 4


def test_the_longest_entry_is_written_whole() -> None:
    policies = {"p" * 11 + letter: "9" * 6 for letter in "abcdef"}
    longest = GOOD | {"policies": policies, "prompt_tokens": 10**9, "answer_tokens": 10**9, "outcome": "cancelled"}
    assert len(Answered(**longest).result()) <= 300


WORDS = "我的卡 4417 was frozen"
TEXTS: dict[str, dict[str, Any]] = {
    "in the request id": {"request_id": WORDS},
    "in the principal": {"principal": "zhang.wei"},
    "in the customer": {"customer": "C-10023"},
    "in the release": {"release": WORDS},
    "in the outcome": {"outcome": WORDS},
    "as a policy": {"policies": {WORDS: "1"}},
    "as a policy's version": {"policies": {"redact": WORDS}},
    "as many policies": {"policies": {f"w{letter}": "1" for letter in "abcdefg"}},
    "with a line break": {"request_id": "req\n"},
}


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_fits_into_an_entry(name: str) -> None:
    with pytest.raises(AuditError) as refused:
        Answered(**(GOOD | TEXTS[name]))
    assert "4417" not in str(refused.value) and "zhang" not in str(refused.value)


def test_names_do_not_enter_by_an_erasure_or_a_review(tmp_path: Path) -> None:
    with EvidenceLog(tmp_path / "evidence.jsonl", "bank-a/serving", KEY) as log:
        audit = AnswerAudit(log)
        for act in (
            lambda: audit.erased("C-10023", 1, by="e" * 32),
            lambda: audit.erased("b" * 32, 1, by="zhang"),
            lambda: audit.reviewed("r", approved=True, by="zhang"),
        ):
            with pytest.raises(AuditError):
                act()
        assert log.entries("erase-customer") == log.entries("review-feedback") == []
