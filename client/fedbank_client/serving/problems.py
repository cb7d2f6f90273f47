"""Every way in which a request can end badly, as a problem document (RFC 9457); docs/formats/problems.md lists them.

A document says what its kind says, or what an error says to whoever sent the request. It never says anything of the
inside (paths, addresses, traces), and nothing that a customer wrote.
"""

import errno
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedbank.data.redact import RefusedTextError
from fedbank.errors import FedBankError
from fedbank.evidence.errors import EvidenceError
from fedbank.serving.access.jwks import KeySetError
from fedbank.serving.access.rights import ForbiddenError, UnauthorizedError
from fedbank.serving.answering import QuestionError
from fedbank.serving.engines.interface import BusyError, DownError, EngineError, RequestError
from fedbank.serving.rollout.desk import NoReleaseError
from fedbank.serving.rollout.file import RolloutFileError
from fedbank.serving.rollout.stages import RolloutError
from fedbank.serving.sharing.redis_link import SharedStoreError
from fedbank.serving.sharing.sessions import UnknownSessionError
from fedbank.serving.store.conversations import UnknownRequestError
from fedbank.serving.store.database import RecordsError
from fedbank.serving.store.feedback import DecidedError, FeedbackError
from fedbank.serving.store.jobs import JobError, ManyJobsError, UnknownJobError

MEDIA_TYPE = "application/problem+json"
_URN = "urn:fedbank:problem:"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. ``says``: its detail; empty where the error itself speaks to whoever sent the request."""

    name: str
    status: int
    title: str
    says: str = ""


MALFORMED = Kind("malformed", 400, "The request is not JSON that can be read")
UNAUTHORIZED = Kind("unauthorized", 401, "The token is missing or not accepted")
FORBIDDEN = Kind("forbidden", 403, "The token's role has no right to this")
NOT_HERE = Kind(
    "not-from-here", 403, "Only this machine may ask this", "Expected a request from and to this machine, got another."
)
NOT_FOUND = Kind("not-found", 404, "There is nothing here", "Expected a path of /openapi.json, got another.")
UNKNOWN_SESSION = Kind("unknown-session", 404, "The session is not there")
UNKNOWN_REQUEST = Kind("unknown-request", 404, "There is no such answer")
UNKNOWN_JOB = Kind(
    "unknown-job", 404, "There is no such job", "Expected the id of a job of yours, got another. Send the batch's id."
)
UNKNOWN_MODEL = Kind("unknown-model", 404, "There is no such model")
WRONG_METHOD = Kind(
    "method-not-allowed", 405, "The path has no such method", "Expected a method in the header Allow, got another."
)
SLOW_BODY = Kind("request-timeout", 408, "The request did not arrive in time")
DECIDED = Kind("feedback-decided", 409, "The feedback was decided before")
MANY_JOBS = Kind("too-many-jobs", 409, "Too many jobs are open")
NO_SUCH_STEP = Kind("rollout-conflict", 409, "The releases' state does not allow this step")
TOO_LARGE = Kind("too-large", 413, "The request is too large")
MEDIA = Kind("unsupported-media-type", 415, "The request is not of a type that is read here")
INVALID = Kind("invalid-request", 422, "The request is not of the documented form")
SECRET = Kind("secret-in-question", 422, "The question holds a password or a code")
UNUSABLE = Kind("unusable-question", 422, "The question cannot be answered as it is")
RATE_LIMITED = Kind(
    "rate-limited", 429, "Too many requests", "Expected fewer requests of one principal, got too many. Wait."
)
INTERNAL = Kind(
    "internal", 500, "The service failed", "An error of the service. Its log has the number of this request."
)
ENGINE_BUSY = Kind(
    "engine-busy", 503, "Too many questions at once", "Expected room in the queue, got none. Try again later."
)
ENGINE_DOWN = Kind(
    "engine-down", 503, "The model does not answer", "Expected an answer of the model, got none. Try again later."
)
NO_RELEASE = Kind(
    "no-release", 503, "There is no release to answer with", "Expected a release that may answer, got none."
)
NOT_READY = Kind("not-ready", 503, "The service cannot answer now")
RECORDS = Kind(
    "records-unavailable", 503, "The store cannot take or give records", "Nothing of this request was kept. Try later."
)
EVIDENCE = Kind(
    "evidence-unavailable", 503, "The audit log cannot be written", "Nothing is answered without its audit entry."
)
KEYS = Kind(
    "keys-unavailable", 503, "Tokens cannot be verified now", "Expected keys of the identity provider, got none."
)
OVERLOADED = Kind("overloaded", 503, "The service is full", "Expected room for one more request, got none.")
STOPPING = Kind(
    "stopping", 503, "The service is stopping", "The request was ended by a stop of the service. Try again."
)
LATE = Kind("deadline", 504, "The answer took too long", "Expected a whole answer in time, got none. Ask for less.")

CAUSES: tuple[tuple[type[FedBankError], Kind], ...] = (
    (UnauthorizedError, UNAUTHORIZED),
    (ForbiddenError, FORBIDDEN),
    (UnknownSessionError, UNKNOWN_SESSION),
    (UnknownRequestError, UNKNOWN_REQUEST),
    (UnknownJobError, UNKNOWN_JOB),
    (DecidedError, DECIDED),
    (ManyJobsError, MANY_JOBS),
    (RolloutError, NO_SUCH_STEP),
    (FeedbackError, INVALID),
    (JobError, INVALID),
    (RefusedTextError, SECRET),
    (QuestionError, UNUSABLE),
    (RequestError, UNUSABLE),
    (BusyError, ENGINE_BUSY),
    (DownError, ENGINE_DOWN),
    (EngineError, ENGINE_DOWN),
    (NoReleaseError, NO_RELEASE),
    (RecordsError, RECORDS),
    (SharedStoreError, RECORDS),
    (RolloutFileError, RECORDS),
    (EvidenceError, EVIDENCE),
    (KeySetError, KEYS),
)
"""What each error is to whoever asked; the first that fits. Others are errors of the service."""
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})
KINDS = tuple(value for value in list(globals().values()) if isinstance(value, Kind))


class RefusedError(FedBankError):
    """A request that ends here with a problem of ``kind``; ``retry_after_s``: when it may be worth another try."""

    def __init__(self, kind: Kind, message: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message or kind.says)
        self.kind, self.retry_after_s = kind, retry_after_s


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document and the headers that go with it."""

    kind: Kind
    detail: str
    headers: Mapping[str, str]
    more: Mapping[str, Any]

    def document(self, request_id: str) -> dict[str, Any]:
        """As JSON; ``instance`` is the number that the service's log has."""
        kind = self.kind
        base = {"type": _URN + kind.name, "title": kind.title, "status": kind.status, "detail": self.detail}
        base["message"] = self.detail  # the one member that OpenAI's client shows its user
        return {**base, "instance": f"urn:fedbank:request:{request_id}", **self.more}


def problem_of(error: BaseException) -> Problem:
    """What whoever asked is told of ``error``."""
    kind = kind_of(error)
    headers = {}
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if isinstance(error, UnauthorizedError):
        sent = error.reason != "missing"  # RFC 6750, section 3.1: no code for whoever sent no token
        headers["WWW-Authenticate"] = 'Bearer realm="fedbank"' + (', error="invalid_token"' if sent else "")
    elif kind is FORBIDDEN:
        headers["WWW-Authenticate"] = 'Bearer realm="fedbank", error="insufficient_scope"'
    return Problem(kind, kind.says or str(error), headers, {})


def kind_of(error: BaseException) -> Kind:
    """Which problem ``error`` is."""
    if isinstance(error, RefusedError):
        return error.kind
    if isinstance(error, OSError) and error.errno in _DISK:
        return RECORDS
    return next((kind for cause, kind in CAUSES if isinstance(error, cause)), INTERNAL)


def responses(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """What a route's OpenAPI says of these problems, by status."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({kind.status for kind in kinds}):
        here = [kind for kind in kinds if kind.status == status]
        examples = {
            kind.name: {"value": Problem(kind, kind.says or kind.title, {}, {}).document("7c2e")} for kind in here
        }
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}}
        found[status] = {"description": "; ".join(kind.title for kind in here), "content": content}
        if status in (429, 503):
            found[status]["headers"] = {
                "Retry-After": {"description": "Seconds, where known", "schema": {"type": "integer", "minimum": 1}}
            }
        if status == 401:
            found[status]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return found


SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "enum": [_URN + kind.name for kind in KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "message": {"type": "string", "description": "The detail again, where OpenAI's clients look for it"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "Fields that are wrong, without their values",
            "items": {
                "type": "object",
                "required": ["at", "said"],
                "properties": {"at": {"type": "string"}, "said": {"type": "string"}},
            },
        },
    },
}
"""The schema of every problem document."""
