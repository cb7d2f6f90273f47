"""The bank's resident process: desk, app and node, put together."""

import logging
import threading
from collections.abc import Callable
from functools import partial

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedbank.config import ClientConfig
from fedbank.errors import FedBankError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank_client.app import make_client_app, payload_of
from fedbank_client.connection import Access
from fedbank_client.desk import Desk
from fedbank_client.egress import Outgoing, refusal_for, reply
from fedbank_client.home import Home
from fedbank_client.loading import load_resources
from fedbank_client.node import NodeSettings, run_node
from fedbank_client.start import status_file

_LOG = logging.getLogger("fedbank.bank")
_MAX_MESSAGE_BYTES = 512 * 1024 * 1024
"""Of the coordinator's messages, which hold the whole adapter; its agreed shape is checked later."""


def serve(home: Home, config: ClientConfig, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Load everything, then answer the coordinator until ``stop`` is set."""
    home.check_secrets()
    key = home.load_signing_key()
    with EvidenceLog(home.folder / EVIDENCE, origin(home.consortium, home.bank), key) as evidence:

        def note(action: str, about: str, result: str) -> None:
            evidence.append(action, about, result, home.bank)

        desk = Desk(home, config, load_resources(config, say), note, say=say)
        _prepare(desk, say)
        settings = NodeSettings(
            _access(home), status_file(home), home.folder / "flower", progress=partial(_progress, desk)
        )
        say(f"{home.bank} is ready. fedbank client status --dir {home.folder} tells how it is.")
        note("client-started", desk.name, "ready")
        run_node(settings, bank_app(desk), stop)
        note("client-stopped", desk.name, "asked to")


def _prepare(desk: Desk, say: Callable[[str], None]) -> None:
    """What stands in the way of a round is said now; the coordinator is answered all the same, with a refusal."""
    try:
        desk.prepare()
    except FedBankError as error:
        say(str(error))


def bank_app(desk: Desk) -> ClientApp:
    """The app of a deployed bank: rounds as in a simulation, and how a campaign begins and ends."""

    def log(error: Exception) -> None:
        _LOG.warning("refused: %s", error, exc_info=None if isinstance(error, FedBankError) else error)

    app = make_client_app(lambda _: desk.open_bank(), log, lambda _: desk.seal())
    app.answers |= {"query.propose", "query.result"}

    def answer(message: Message, act: Callable[[bytes], Outgoing]) -> Message:
        try:
            outgoing = act(payload_of(message))
            return reply(message, outgoing, desk.seal())
        except Exception as error:  # noqa: BLE001 - whatever it is, its text must not leave
            log(error)
            return reply(message, refusal_for(error), None)

    @app.query("propose")
    def propose(message: Message, context: Context) -> Message:
        return answer(message, desk.consider)

    @app.query("result")
    def result(message: Message, context: Context) -> Message:
        return answer(message, desk.receive)

    return app


def _access(home: Home) -> Access:
    return Access(
        home.addresses[0],
        home.authority,
        home.certificate,
        home.tls_key,
        home.node_key,
        max_message_bytes=_MAX_MESSAGE_BYTES,
        others=home.addresses[1:],
    )


def _progress(desk: Desk) -> dict[str, object] | None:
    current = desk.progress.current()
    return None if current is None else current.as_json()
