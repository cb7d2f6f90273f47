"""All that the routes need of the bank's service, put together by its command."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fedbank.evidence.log import EvidenceLog
from fedbank.serving.access.development_issuer import DevelopmentIssuer
from fedbank.serving.access.tokens import TokenVerifier
from fedbank.serving.answering import Answering
from fedbank.serving.engines.interface import Engine
from fedbank.serving.monitor import Monitor
from fedbank.serving.rollout.desk import ReleaseDesk
from fedbank.serving.store.audit import AnswerAudit
from fedbank.serving.store.conversations import Conversations
from fedbank.serving.store.feedback import FeedbackDesk
from fedbank.serving.store.jobs import Jobs
from fedbank.serving.store.records import Records
from fedbank.serving.store.vault import RecordsKey
from fedbank_client.serving.limits import HttpLimits, Rates, Threads

_FAILING_S = 5.0


@dataclass(frozen=True, slots=True)
class Development:
    """The development issuer, and the audience that its tokens name."""

    issuer: DevelopmentIssuer
    audience: str


@dataclass(slots=True)
class Keeping:
    """Whether the store, the shared store and the evidence took what was answered lately."""

    _failed_at: float = -math.inf

    def failed(self) -> None:
        """One of them refused now."""
        self._failed_at = time.monotonic()

    def is_failing(self) -> bool:
        """It is a few seconds since: after them another question may find them mended."""
        return time.monotonic() - self._failed_at < _FAILING_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """See the module.

    ``verifier``: ``None`` accepts no token. ``development``: ``None`` gives none away. ``worker``: this process's name
    among those that work on the same store's jobs, the same after a restart. ``store`` and ``tokens``: threads.
    """

    answering: Answering
    verifier: TokenVerifier | None
    key: RecordsKey = field(repr=False)
    records: Records
    conversations: Conversations
    feedback: FeedbackDesk
    jobs: Jobs
    releases: ReleaseDesk
    monitor: Monitor
    engine: Engine
    audit: AnswerAudit
    evidence: EvidenceLog
    rates: Rates
    keeping: Keeping = field(default_factory=Keeping)
    development: Development | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)
    worker: str = "serve"
    store: Threads = field(default_factory=lambda: Threads("store", 4))
    tokens: Threads = field(default_factory=lambda: Threads("tokens", 4))
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
