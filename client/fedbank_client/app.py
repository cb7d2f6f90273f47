"""The bank's ``ClientApp``: the same object for a simulation and for a deployment."""

from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedbank.adapter.update import PAYLOAD, RECORD
from fedbank_client.bank import Bank


def make_client_app(open_bank: Callable[[Context], Bank]) -> ClientApp:
    """A Flower ``ClientApp`` that answers for the bank that ``open_bank`` finds for a node's context."""
    app = ClientApp()

    @app.query("enrol")
    def enrol(message: Message, context: Context) -> Message:
        return _reply(message, open_bank(context).name.encode())

    @app.train()
    def train(message: Message, context: Context) -> Message:
        payload = message.content.config_records[RECORD][PAYLOAD]
        if not isinstance(payload, bytes):
            raise TypeError(f"expected bytes, got {type(payload).__name__}")
        return _reply(message, open_bank(context).train(payload))

    return app


def _reply(message: Message, payload: bytes) -> Message:
    """One record with one value and nothing else: this is all that leaves the bank."""
    return Message(RecordDict({RECORD: ConfigRecord({PAYLOAD: payload})}), reply_to=message)
