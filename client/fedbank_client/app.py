"""The bank's ``ClientApp``: the same object for a simulation and for a deployment."""

import secrets
from collections.abc import Callable
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedbank.adapter.heads import LedgerHead
from fedbank.adapter.update import NONCE_BYTES, PAYLOAD, QUESTION, RECORD, REQUEST, Presence, RoundCall, Update
from fedbank.errors import UpdateError
from fedbank_client.egress import Outgoing, Refusal, refusal_for, reply
from fedbank_client.seal import BankSeal


class Trainer(Protocol):
    """What the app asks a bank for; ``fedbank_client.bank.Bank`` is one."""

    name: str

    def train(self, request: bytes) -> Update:
        """The bank's update to one round, charged once, the same bytes every time."""

    def head(self) -> LedgerHead:
        """The head of the bank's ledger as it is now."""


class BankApp(ClientApp):
    """Flower's app, which refuses a kind of message that it has no answer to instead of raising.

    ``answers`` are the kinds of messages that it knows; whoever registers another adds it.
    """

    def __init__(self, *answers: str) -> None:
        super().__init__()
        self.answers = set(answers)

    def __call__(self, message: Message, context: Context) -> Message:
        """The answer to ``message``."""
        if message.metadata.message_type not in self.answers:
            return reply(message, Refusal.REQUEST, None)
        answer: Message = super().__call__(message, context)
        return answer


def make_client_app(
    open_bank: Callable[[Context], Trainer],
    on_failure: Callable[[Exception], None],
    find_seal: Callable[[Context], BankSeal],
) -> BankApp:
    """A Flower ``ClientApp`` that answers for the bank that ``open_bank`` finds for a node's context.

    Nothing that a message says is read before the coordinator's signature was verified with the bank's seal
    (``find_seal``), and every answer is signed with it. Whatever goes wrong, the coordinator learns one of three fixed
    reasons. ``on_failure`` gets the exception itself, which may speak of private data: a bank writes it to its own log,
    a simulation (where nobody is outside) raises it.
    """
    app = BankApp("query.enrol", "train")
    instance = secrets.token_hex(8)

    def answer(message: Message, context: Context, act: Callable[[BankSeal], Outgoing]) -> Message:
        try:
            seal = find_seal(context)
            return reply(message, act(seal), seal)
        except Exception as error:  # noqa: BLE001 - whatever it is, its text must not leave
            on_failure(error)
            outgoing = refusal_for(error)
        return reply(message, outgoing, None)

    @app.query("enrol")
    def enrol(message: Message, context: Context) -> Message:
        def act(seal: BankSeal) -> Presence:
            nonce = seal.open(QUESTION, payload_of(message))
            if len(nonce) != NONCE_BYTES:
                raise UpdateError(f"Expected a question of {NONCE_BYTES} random bytes, got {len(nonce)}.")
            bank = open_bank(context)
            return Presence(bank.name, instance, seal.mask(), nonce.hex(), bank.head())

        return answer(message, context, act)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        def act(seal: BankSeal) -> Update:
            call = seal.open(REQUEST, payload_of(message))
            return open_bank(context).train(RoundCall.request_to(seal.bank, seal.mask(), call))

        return answer(message, context, act)

    return app


def raise_it(error: Exception) -> None:
    """``on_failure`` for a process in which nobody is outside: a simulation, a test."""
    raise error


def payload_of(message: Message) -> bytes:
    """The one value of a message from the coordinator, whatever it is: nobody has verified it.

    Raises:
        UpdateError: the message is something else than one record with one bytes value.
    """
    record = message.content.config_records.get(RECORD) if message.has_content() else None
    payload = record.get(PAYLOAD) if record is not None else None
    if not isinstance(payload, bytes):
        raise UpdateError(f"Expected a message with bytes in it, got {type(payload).__name__}. Nothing was used.")
    return payload
