"""One customer is erased: nothing of theirs is left in any file or in memory but a hash in the log of evidence."""

import asyncio
from pathlib import Path

import pytest
from bank_records import ANSWER, KEY, NOW, QUESTION, exchange, open_records

from fedbank.evidence.log import EvidenceLog
from fedbank.evidence.verify import verify_log
from fedbank.sealing.keys import SigningKey
from fedbank.serving.sharing.sessions import MemorySessions, Said, UnknownSessionError
from fedbank.serving.store.audit import AnswerAudit, Answered
from fedbank.serving.store.conversations import Conversations
from fedbank.serving.store.feedback import FeedbackDesk
from fedbank.serving.store.jobs import Asked, Jobs

OPERATOR, AGENT = "e" * 32, "f" * 32
SIGNING = SigningKey.derived("erase")


def test_nothing_is_left_but_the_hash_in_the_evidence(tmp_path: Path) -> None:
    records, sessions = open_records(tmp_path), MemorySessions()
    names = {name: records.customer(name) for name in ("C-10023", "C-7")}
    with EvidenceLog(tmp_path / "evidence.jsonl", "bank-a/serving", SIGNING) as log:
        audit, ids = AnswerAudit(log), {}
        for name, pseudonym in names.items():
            ids[name] = asyncio.run(sessions.start(pseudonym, NOW))
            asyncio.run(sessions.add(ids[name], pseudonym, Said(QUESTION, ANSWER, 20), NOW))
            audit.answered(Answered(f"r-{pseudonym[:8]}", AGENT, pseudonym, "a" * 64, {"redact": "1"}, 12, 8))
            Conversations(records).add(exchange(f"r-{pseudonym[:8]}", name))
            FeedbackDesk(records).give(f"r-{pseudonym[:8]}", name, helpful=True, comment="thanks")
            FeedbackDesk(records).review(f"r-{pseudonym[:8]}", AGENT, NOW, approve=True)
            Jobs(records).submit(AGENT, [Asked(name, QUESTION)], NOW)

        removed = records.erase("C-10023")
        assert asyncio.run(sessions.forget(names["C-10023"])) == 1
        audit.erased(names["C-10023"], removed.rows, by=OPERATOR)

    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert not any(text.encode() in content for text in ("C-10023", QUESTION, ANSWER, "thanks", KEY._raw.hex()))
        assert (names["C-10023"].encode() in content) == (path.name == "evidence.jsonl"), path.name
    with pytest.raises(UnknownSessionError):
        asyncio.run(sessions.context(ids["C-10023"], names["C-10023"], NOW))
    assert [one.customer for one in FeedbackDesk(records).approved_inquiries()] == ["C-7"]
    assert len(asyncio.run(sessions.context(ids["C-7"], names["C-7"], NOW))) == 2
    assert verify_log(tmp_path / "evidence.jsonl", SIGNING.public.raw).entries == 3
