"""The bank's ``ClientApp``: the same object for a simulation and for a deployment."""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedbank.adapter.update import PAYLOAD, RECORD
from fedbank_client.bank import Bank
from fedbank_client.egress import Enrolment, Outgoing, refusal_for, reply


def make_client_app(open_bank: Callable[[Context], Bank], on_failure: Callable[[Exception], None]) -> ClientApp:
    """A Flower ``ClientApp`` that answers for the bank that ``open_bank`` finds for a node's context.

    Whatever goes wrong, the coordinator learns one of three fixed reasons. ``on_failure`` gets the exception itself,
    which may speak of private data: a bank writes it to its own log, a simulation (where nobody is outside) raises it.
    """
    app = ClientApp()

    def answer(message: Message, act: Callable[[], Outgoing]) -> Message:
        try:
            outgoing = act()
        except Exception as error:  # noqa: BLE001 - whatever it is, its text must not leave
            on_failure(error)
            outgoing = refusal_for(error)
        return reply(message, outgoing)

    @app.query("enrol")
    def enrol(message: Message, context: Context) -> Message:
        return answer(message, lambda: Enrolment(open_bank(context).name))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(message, lambda: open_bank(context).train(_payload(message)))

    return app


def raise_it(error: Exception) -> None:
    """``on_failure`` for a process in which nobody is outside: a simulation, a test."""
    raise error


def _payload(message: Message) -> bytes:
    payload = message.content.config_records[RECORD][PAYLOAD]
    if not isinstance(payload, bytes):
        raise TypeError(f"expected bytes, got {type(payload).__name__}")
    return payload
