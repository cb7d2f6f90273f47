"""Who may do what at a bank's service: four roles whose rights do not overlap, and nothing for anybody else.

It knows principals, not tokens (``tokens``). A person with two tasks has two tokens: no one token can answer customers
and change what answers them.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from fedbank.errors import FedBankError
from fedbank.serving.store.vault import RecordsKey


class Role(StrEnum):
    """What a token says of its bearer, exactly one."""

    CUSTOMER_CHANNEL = "customer-channel"
    AGENT = "agent"
    OPERATOR = "operator"
    AUDITOR = "auditor"


class Right(StrEnum):
    """One thing that can be done."""

    ASK = "ask, and go on in one's own sessions"
    GIVE_FEEDBACK = "say whether one's own answer helped"
    ASK_FOR_CUSTOMER = "ask in the name of a customer"
    BATCH = "hand in, follow and cancel one's own batch jobs"
    REVIEW_FEEDBACK = "read feedback and decide whether it enters training"
    WATCH = "see traffic, queue, metrics and the stages of releases"
    ROLL_OUT = "promote a release or roll it back"
    ERASE = "erase one customer, and purge what is too old"
    READ_AUDIT = "read and verify the log of evidence"


RIGHTS: dict[Role, frozenset[Right]] = {
    Role.CUSTOMER_CHANNEL: frozenset({Right.ASK, Right.GIVE_FEEDBACK}),
    Role.AGENT: frozenset({Right.ASK_FOR_CUSTOMER, Right.BATCH, Right.REVIEW_FEEDBACK}),
    Role.OPERATOR: frozenset({Right.WATCH, Right.ROLL_OUT, Right.ERASE}),
    Role.AUDITOR: frozenset({Right.READ_AUDIT}),
}
"""Every right has one role."""


class UnauthorizedError(FedBankError):
    """No token, or none that is accepted (HTTP 401). ``reason``: one word for a metric."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ForbiddenError(FedBankError):
    """The token is good, the right is not among its role's (HTTP 403)."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request, as the issuer of their token says; ``expires`` in seconds since 1970."""

    role: Role
    issuer: str
    expires: float
    subject: str = field(repr=False)

    def pseudonym(self, key: RecordsKey) -> str:
        """The name that records, logs and limits know: the same for the same subject, of no use without the key."""
        return key.pseudonym("principal", self.issuer, self.subject)

    def require(self, right: Right) -> None:
        """``ForbiddenError`` unless the role has ``right``."""
        if right not in RIGHTS.get(self.role, frozenset()):
            raise ForbiddenError(
                f"Expected a token that gives the right to {right.value}, got one of the role {self.role.value}. Ask "
                "with a token of the role that has it."
            )


def bearer_token(authorization: str | None) -> str:
    """The token in an Authorization header (RFC 6750, section 2.1), in no other place and of no other scheme."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthorizedError(
            "Expected the header 'Authorization: Bearer TOKEN', got none or another. Get a token from the bank's "
            "identity provider.",
            "missing",
        )
    return token.strip()
