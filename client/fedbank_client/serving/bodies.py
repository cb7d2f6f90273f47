"""What the routes take and give, as it stands in the OpenAPI description. Unknown fields are refused."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fedbank.serving.access.rights import Role
from fedbank.serving.answering import Answered
from fedbank.serving.store.feedback import MAX_COMMENT, Feedback, State
from fedbank.serving.store.jobs import Item, ItemState, Progress

MOST_TOKENS, MOST_ITEMS, MOST_ENTRIES = 4096, 10_000, 1000
_RELEASE = "release-2026-03-01"
_REQUEST = "r3f9c1d0e7a5b48c2903d6e1f0a7b8c9d"
_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
Customer = Annotated[
    str,
    Field(min_length=1, max_length=256, pattern=_PRINTABLE, description="The customer's name in the bank's records"),
]
_Integral = BeforeValidator(lambda found: int(found) if _is_integral(found) else found)
"""As JSON Schema has it: 16.0 is an integer."""
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS), _Integral]
Seed = Annotated[int, Field(ge=0, lt=2**31), _Integral]
Text = Annotated[str, Field(min_length=1)]
RequestId = Annotated[str, Field(min_length=1, max_length=64, pattern="^[A-Za-z0-9_-]+$")]


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shown(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True)


class QueryBody(Body):
    """One question."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"question": "信用卡丢了怎么办？"},
                {"question": "And what does it cost?", "session_id": "dGhpcyBpcyBhbiBleGFtcGxl", "max_length": 200},
            ]
        }
    )
    question: Text
    session_id: str | None = Field(None, max_length=128, description="Of a conversation that goes on")
    max_length: Tokens | None = Field(None, description="Tokens of the answer, at most")
    stream: bool = Field(False, description="Send the answer as it is written (text/event-stream)")
    customer: Customer | None = Field(None, description="Agents: in whose name. Nobody else says it.")


class NoticeShown(Shown):
    """What a customer is told beside an answer."""

    code: str
    zh: str
    en: str


class AnswerShown(Shown):
    """A whole answer; ``release`` is whose adapter gave it, ``aigc`` the label of GB 45438-2025."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "answer": "请立即拨打客服热线挂失。",
                    "token_count": 12,
                    "latency_ms": 840.2,
                    "release": _RELEASE,
                    "session_id": "dGhpcyBpcyBhbiBleGFtcGxl",
                    "request_id": _REQUEST,
                    "notices": [{"code": "ai-generated", "zh": "内容由人工智能生成。", "en": "Written by an AI."}],
                    "aigc": {"Label": "1", "ContentProducer": "bank-a", "ProduceID": _REQUEST},
                }
            ]
        }
    )
    answer: str
    token_count: int = Field(description="Of the answer")
    latency_ms: float
    release: str
    session_id: str | None
    request_id: str
    notices: list[NoticeShown]
    aigc: dict[str, str]


class BatchItem(Body):
    """One question of a batch."""

    customer: Customer
    question: Text


class BatchBody(Body):
    """Questions that nobody waits for."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"questions": [{"customer": "C-10023", "question": "如何修改预留手机号？"}]}]}
    )
    questions: list[BatchItem] = Field(min_length=1, max_length=MOST_ITEMS)


class JobTaken(Shown):
    """A job that was kept."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"job_id": "job-Jk2v0T5yQm6mG1aX9r3pWQ"}]})
    job_id: str


class ItemShown(Shown):
    """One item of a job; the question stays where it is."""

    number: int
    state: ItemState
    answer: str
    request_id: str


class JobShown(Shown):
    """How far a job is, and its items as far as they are left."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job_id": "job-Jk2v0T5yQm6mG1aX9r3pWQ",
                    "total": 1,
                    "waiting": 0,
                    "answered": 1,
                    "failed": 0,
                    "cancelled": 0,
                    "expired": 0,
                    "erased": 0,
                    "is_over": True,
                    "items": [{"number": 0, "state": "answered", "answer": "请携带……", "request_id": _REQUEST}],
                }
            ]
        }
    )
    job_id: str
    total: int
    waiting: int
    answered: int
    failed: int
    cancelled: int
    expired: int
    erased: int
    is_over: bool
    items: list[ItemShown]


class FeedbackBody(Body):
    """Whether one's own answer helped."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"request_id": _REQUEST, "helpful": True}]})
    request_id: RequestId
    helpful: bool
    comment: str = Field("", max_length=MAX_COMMENT)


class ReviewBody(Body):
    """A decision: whether it may enter training, and the right answer where the given one was wrong."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"approve": True, "corrected": "挂失请拨打 95xxx。"}]})
    approve: bool
    corrected: str = Field("", max_length=8000)


class FeedbackShown(Shown):
    """What was said of one answer. The customer's name is not shown."""

    request_id: str
    at: str
    release: str
    question: str
    answer: str
    helpful: bool
    comment: str
    state: State
    corrected: str


class FeedbackList(Shown):
    """Oldest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "feedback": [
                        {
                            "request_id": _REQUEST,
                            "at": "2026-03-01T12:00:00+00:00",
                            "release": _RELEASE,
                            "question": "信用卡丢了怎么办？",
                            "answer": "请立即挂失。",
                            "helpful": True,
                            "comment": "",
                            "state": "candidate",
                            "corrected": "",
                        }
                    ]
                }
            ]
        }
    )
    feedback: list[FeedbackShown]


class Nothing(Body):
    """``{}``: a step that needs no word."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})


class EraseBody(Body):
    """Whose records are erased."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"customer": "C-10023"}]})
    customer: Customer


class Erased(Shown):
    """What was there of the customer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"rows": 14, "keys": 1, "sessions": 1}]})
    rows: int
    keys: int
    sessions: int


class StatusShown(Shown):
    """The operator's view: numbers, and never a customer's word."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "releases": {"stable": {"release": _RELEASE}, "previous": None, "candidate": None, "events": []},
                    "traffic": {"minutes": [], "now": {"answers": 3, "failures": 0, "refused": 0}},
                    "engine": {"ready": True, "said": "", "running": 1, "waiting": 0},
                    "feedback": {"helpful": 2, "not_helpful": 1, "candidates": 3, "approved": 0, "rejected": 0},
                }
            ]
        }
    )
    releases: dict[str, Any]
    traffic: dict[str, Any]
    engine: dict[str, Any]
    feedback: dict[str, int]


class EntryShown(Shown):
    """One entry of the log (docs/formats/evidence.md)."""

    seq: int
    utc: str
    actor: str
    action: str
    object: str
    result: str


class EntriesShown(Shown):
    """In their order; ``next`` is the ``after`` of the page behind this one, where there may be one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "entries": [
                        {
                            "seq": 0,
                            "utc": "2026-03-01T12:00:00.000+00:00",
                            "actor": "a" * 32,
                            "action": "answer",
                            "object": _REQUEST,
                            "result": "answered; 120+48 tokens; release base; customer " + "b" * 32,
                        }
                    ],
                    "next": 0,
                }
            ]
        }
    )
    entries: list[EntryShown]
    next: int | None


class DevelopmentBody(Body):
    """Whose token: for a first run on one machine."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"role": "customer-channel", "subject": "C-10023"}]}, strict=False
    )
    role: Role
    subject: Customer


class TokenShown(Shown):
    """RFC 6749, section 5.1."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"access_token": "eyJ…", "token_type": "Bearer", "expires_in": 3600}]}
    )
    access_token: str
    token_type: Literal["Bearer"] = "Bearer"
    expires_in: int


class Alive(Shown):
    """The process is up, or the service can answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})
    status: Literal["ok"] = "ok"


def _is_integral(found: object) -> bool:
    return isinstance(found, float) and found.is_integer()


def answer_shown(found: Answered) -> AnswerShown:
    """An answer as it is sent."""
    return AnswerShown(
        answer=found.text,
        token_count=found.answer_tokens,
        latency_ms=found.latency_ms,
        release=found.release,
        session_id=found.session_id,
        request_id=found.request_id,
        notices=[NoticeShown(code=one.code, zh=one.zh, en=one.en) for one in found.notices],
        aigc=dict(found.aigc),
    )


def job_shown(found: Progress, items: list[Item]) -> JobShown:
    """A job as it is sent."""
    counts: Mapping[str, int] = {
        name: getattr(found, name)
        for name in ("total", "waiting", "answered", "failed", "cancelled", "expired", "erased")
    }
    shown = [
        ItemShown(number=one.number, state=one.state, answer=one.answer, request_id=one.request_id) for one in items
    ]
    return JobShown(job_id=found.job_id, is_over=found.is_over, items=shown, **counts)


def feedback_shown(found: Feedback) -> FeedbackShown:
    """Feedback as it is sent."""
    exchange = found.exchange
    return FeedbackShown(
        request_id=exchange.request_id,
        at=exchange.at.isoformat(),
        release=exchange.release,
        question=exchange.question,
        answer=exchange.answer,
        helpful=found.helpful,
        comment=found.comment,
        state=found.state,
        corrected=found.corrected,
    )
