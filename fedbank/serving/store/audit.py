"""The bank's evidence of what it answered: one entry for every answer, and never a word of it.

Entries go into the tamper-evident log (fedbank.evidence). Each field has a form in which no text fits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fedbank.errors import FedBankError
from fedbank.evidence.log import EvidenceLog

ANSWERED, ERASED, REVIEWED = "answer", "erase-customer", "review-feedback"
_DIGEST = re.compile(r"[0-9a-f]{64}|none")
_PSEUDONYM = re.compile(r"[0-9a-f]{32}")
_REQUEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_POLICY = re.compile(r"[a-z][a-z0-9-]{0,11}/[0-9a-z.]{1,6}")
MAX_POLICIES = 6
_COUNTS = f"at most {MAX_POLICIES} policies, a known outcome"


class AuditError(FedBankError):
    """A field of an entry is of a form in which text would fit; nothing was written."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What is kept of one answer for ever; ``principal`` and ``customer`` are pseudonyms.

    ``release``: the SHA-256 of its manifest, or ``none`` where no release was asked. ``policies``: name → version, for
    example redact → 2.
    """

    request_id: str
    principal: str
    customer: str
    release: str
    policies: Mapping[str, str]
    prompt_tokens: int
    answer_tokens: int
    outcome: str = "answered"

    def __post_init__(self) -> None:
        policies = [f"{name}/{version}" for name, version in self.policies.items()]
        forms = [(_REQUEST, self.request_id), (_DIGEST, self.release)]
        forms += [(_PSEUDONYM, name) for name in (self.principal, self.customer)]
        forms += [(_POLICY, policy) for policy in policies]
        bad = next((form.pattern for form, value in forms if not form.fullmatch(value)), None)
        if bad is not None or len(policies) > MAX_POLICIES or self.outcome not in OUTCOMES:
            raise AuditError(
                f"Expected the fields of an audit entry in their forms ({bad or _COUNTS}), got another. It is not "
                "shown here, for it may be text; nothing was written."
            )

    def result(self) -> str:
        """The entry's one line."""
        policies = " ".join(f"{name}/{version}" for name, version in sorted(self.policies.items())) or "none"
        tokens = f"{self.prompt_tokens:d}+{self.answer_tokens:d} tokens"
        return f"{self.outcome}; {tokens}; release {self.release}; customer {self.customer}; policies {policies}"


OUTCOMES = ("answered", "cancelled", "refused", "failed")
"""How a request that reached a model or a policy ended."""


class AnswerAudit:
    """Writes the entries; ``EvidenceError`` if the log cannot take one: the caller must not answer as if it had."""

    def __init__(self, log: EvidenceLog) -> None:
        self._log = log

    def answered(self, *entries: Answered) -> None:
        """One answer (or its refusal), or several that ended together."""
        self._log.append_all([(ANSWERED, entry.request_id, entry.result(), entry.principal) for entry in entries])

    def erased(self, customer: str, rows: int, by: str) -> None:
        """Everything of one customer was erased; what is left is this hash. ``by`` is a principal's pseudonym."""
        _check_pseudonyms(customer, by)
        self._log.append(ERASED, customer, f"{rows:d} rows", by)

    def reviewed(self, request_id: str, *, approved: bool, by: str) -> None:
        """Feedback was decided."""
        _check_pseudonyms(by)
        self._log.append(REVIEWED, request_id, "approved" if approved else "rejected", by)


def _check_pseudonyms(*names: str) -> None:
    if not all(map(_PSEUDONYM.fullmatch, names)):
        raise AuditError(
            "Expected pseudonyms (32 hexadecimal digits) in an audit entry, got a name. Nothing was written."
        )
