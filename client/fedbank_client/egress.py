"""The one way out of a bank: six kinds of things may leave it, and nothing but this module sends.

The allow-list is a type. Whoever has something else to send (a loss, a count, the text of an exception) has no
function to call, and a subclass that carries more is refused when it is sent.
"""

from enum import Enum

from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedbank.adapter.update import (
    LATER_CODE,
    PAYLOAD,
    PRESENCE,
    RECORD,
    REFUSED_CODE,
    UPDATE,
    Later,
    Presence,
    Update,
)
from fedbank.errors import PrivacyError, UpdateError
from fedbank.proposal import ACCEPTANCE, Acceptance
from fedbank.result import RECEIPT, Receipt
from fedbank_client.policy import ClosedError
from fedbank_client.seal import BankSeal


class Refusal(Enum):
    """Why a bank sends no update: one of three fixed texts. What exactly went wrong stays inside."""

    PRIVACY = "refused: the bank's privacy rules do not allow this round"
    REQUEST = "refused: not a request that this bank understands or has agreed to"
    FAILURE = "refused: the bank could not finish the round"


Outgoing = Presence | Acceptance | Update | Receipt | Refusal | Later


def refusal_for(error: Exception) -> Refusal | Later:
    """The public reason that stands for ``error``; its text may speak of private data and is not used."""
    if isinstance(error, ClosedError):
        return Later(error.until)
    if isinstance(error, PrivacyError):
        return Refusal.PRIVACY
    return Refusal.REQUEST if isinstance(error, UpdateError) else Refusal.FAILURE


def reply(message: Message, outgoing: Outgoing, seal: BankSeal | None) -> Message:
    """The answer to ``message``; ``TypeError`` for anything that is not on the list, subclasses included.

    Everything but a refusal and the hour of training is signed with the bank's ``seal``; a bank without one can say
    only these.
    """
    if type(outgoing) is Refusal:
        return Message(Error(REFUSED_CODE, outgoing.value), reply_to=message)
    if type(outgoing) is Later:
        return Message(Error(LATER_CODE, outgoing.to_text()), reply_to=message)
    if seal is not None and type(outgoing) is Presence:
        return _reply(message, seal.close(PRESENCE, outgoing.to_bytes()))
    if seal is not None and type(outgoing) is Acceptance:
        return _reply(message, seal.close(ACCEPTANCE, outgoing.to_bytes()))
    if seal is not None and type(outgoing) is Update:
        return _reply(message, seal.close(UPDATE, outgoing.to_bytes()))
    if seal is not None and type(outgoing) is Receipt:
        return _reply(message, seal.close(RECEIPT, outgoing.to_bytes()))
    raise TypeError(f"expected one of {Outgoing}; got {type(outgoing).__name__}; nothing was sent")


def _reply(message: Message, payload: bytes) -> Message:
    """One record with one value and nothing else."""
    return Message(RecordDict({RECORD: ConfigRecord({PAYLOAD: payload})}), reply_to=message)
