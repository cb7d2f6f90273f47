"""A consortium with everything but processes and sockets: real folders, keys, desks, ledgers, evidence, campaigns."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context, Message

from fedbank.config import load_campaign, load_client
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.membership.documents import Invitation
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.privacy.noise import RandomStream
from fedbank.sealing.keys import SigningKey
from fedbank_client.desk import Desk
from fedbank_client.enrolment import enrol, join
from fedbank_client.home import Home, read_home
from fedbank_client.loading import load_resources
from fedbank_client.resident import bank_app
from fedbank_server.authority import create_consortium, load_authority
from fedbank_server.consortium import Files
from fedbank_server.evidence import EvidenceObserver
from fedbank_server.invitations import invite
from fedbank_server.members import admit
from fedbank_server.run import prepare, run_campaign
from fedbank_simulations.inline import PARTITION_ID, InlineGrid

NAME = "Whole Consortium"


class WholeConsortium:
    """``coordinator`` and ``banks`` are folders; the invitations' files lie beside them."""

    def __init__(
        self,
        folder: Path,
        banks: tuple[str, ...] = ("bank-a", "bank-b"),
        customers: int = 80,
        streams: Callable[[int, str, int], RandomStream] | None = None,
    ) -> None:
        """``streams`` makes a round's randomness of the bank's seed, its name and the round; without, it is secure."""
        self.coordinator, now = folder / "coordinator", datetime.now(UTC)
        self.customers, self._streams = customers, streams
        create_consortium(self.coordinator, NAME, now, hosts=("127.0.0.1",), port=9443, passphrase=None)
        self.homes = {bank: self._join(folder, bank, now) for bank in banks}

    @property
    def banks(self) -> dict[str, Path]:
        return {bank: home.folder for bank, home in self.homes.items()}

    def run(self, *overrides: str, observe: type[EvidenceObserver] = EvidenceObserver) -> Any:
        """One campaign from the proposal to the receipts, as ``fedbank server run`` and ``fedbank client start`` do."""
        prepared = prepare(self.coordinator, load_campaign([*overrides, "patience_s=20"]))
        with ExitStack() as stack:
            apps = [bank_app(self._desk(home, number, stack)) for number, home in enumerate(self.homes.values())]

            def answer(message: Message, context: Context) -> Message:
                reply: Message = apps[int(context.node_config[PARTITION_ID])](message, context)
                return reply

            app: Any = answer
            grid = InlineGrid(app, {number + 1: {PARTITION_ID: number} for number in range(len(apps))})
            key = SigningKey.load(Files(self.coordinator).coordinator_key)
            log = EvidenceLog(self.coordinator / EVIDENCE, origin(NAME, "coordinator"), key)
            observer = observe(stack.enter_context(log), prepared.proposal.campaign, lambda text: None)
            return run_campaign(prepared, grid, observer, lambda: False, lambda text: None)

    def _join(self, folder: Path, bank: str, now: datetime) -> Home:
        invitation = invite(self.coordinator, bank, now, valid=timedelta(hours=24))[1]
        (folder / f"{bank}.inv").write_bytes(invitation)
        home = enrol(folder / bank, bank, Invitation.read(invitation), now)[0]
        files = Files(self.coordinator)
        package = admit(self.coordinator, home.request.read_bytes(), lambda: load_authority(files, None), now)[1]
        join(home, package, now)
        text = home.policy.read_text("utf-8")
        allowed = {
            "max_epsilon_per_campaign": "8.0",
            "max_epsilon_total": "20.0",
            "accept_plain_updates": "true",
            "base_model_digests": f"[{base_digest(tiny_folder())}]",
        }
        for name, value in allowed.items():
            text = re.sub(rf"(?m)^{name}:.*$", f"{name}: {value}", text)
        home.policy.write_text(text, "utf-8")
        return read_home(home.folder)

    def _desk(self, home: Home, seed: int, stack: ExitStack) -> Desk:
        config = load_client([f"seed={seed}", f"data.customers={self.customers}"])
        own = EvidenceLog(home.folder / EVIDENCE, origin(home.consortium, home.bank), home.load_signing_key())
        evidence = stack.enter_context(own)

        def note(action: str, about: str, result: str) -> None:
            evidence.append(action, about, result, home.bank)

        make = self._streams
        stream = None if make is None else partial(make, seed, home.bank)
        return Desk(home, config, load_resources(config, lambda text: None), note, stream_for_round=stream)
