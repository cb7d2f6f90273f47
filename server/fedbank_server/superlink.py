"""The coordinator's process: Flower's SuperLink behind two listeners, open to the roster's members only."""

import asyncio
import logging
import os
import signal
import time
from asyncio import constants
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedbank.errors import RunError
from fedbank_server import flower_hooks as flower
from fedbank_server.bodies import App, Objects
from fedbank_server.doorbell import Doorbell
from fedbank_server.gate import Admitted, PrivateGate, PublicGate
from fedbank_server.limits import Limits
from fedbank_server.listeners import Identity, QuietServer, private_server, public_server
from fedbank_server.memory import keep_nothing, return_large_blocks

_LOG = logging.getLogger("fedbank.superlink")
_TELL_EVERY_S, _MAX_TOLD = 60.0, 1000
_CLEAN_EVERY_S = 60.0
Allowed = Callable[[], Mapping[str, tuple[str, str]]]
"""Bank to (node key as an OpenSSH line, SHA-256 of its certificate in hex): the active members, asked for often."""
OnEvent = Callable[[str, Mapping[str, Any]], None]
"""Gets ``admitted``, ``removed``, ``refused`` and ``roster-unreadable`` events with what they are about."""


@dataclass(frozen=True, slots=True)
class SuperLinkSettings:
    """Where the coordinator listens and keeps its state; ``token`` is the operator's, for the private listener."""

    identity: Identity
    database: Path
    home: Path
    token: str = field(repr=False)
    public_host: str = "0.0.0.0"
    public_port: int = 8443
    private_port: int = 8444
    roster_interval_s: float = 2.0
    limits: Limits = field(default_factory=Limits)


def serve(
    settings: SuperLinkSettings,
    allowed: Allowed,
    *,
    on_event: OnEvent = lambda kind, about: None,
    pages: App | None = None,
    releases: App | None = None,
    chores: Callable[[], None] = lambda: None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    ``pages`` serves what is not Flower's on the private listener, GET only; ``releases`` the members' repository on the
    banks' listener. ``chores`` is called once a minute, in a thread.
    """
    if len(settings.token) < 32:
        raise RunError("Expected an operator's token of at least 32 characters, got a shorter one. Make a new one.")
    flower.check_flower()
    return_large_blocks()
    # uvicorn has no setting for it: a connection that never says anything is dropped after this, not after a minute
    constants.SSL_HANDSHAKE_TIMEOUT = settings.limits.header_timeout_s
    os.environ["FLWR_HOME"] = str(settings.home)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    settings.database.parent.mkdir(parents=True, exist_ok=True)
    old_mask = os.umask(0o077)  # the database and its journal are the coordinator's own
    try:
        asyncio.run(_SuperLink(settings, allowed, on_event, pages, releases, chores).run(on_ready))
    finally:
        os.umask(old_mask)


class _SuperLink:
    def __init__(
        self,
        settings: SuperLinkSettings,
        allowed: Allowed,
        on_event: OnEvent,
        pages: App | None,
        releases: App | None,
        chores: Callable[[], None],
    ) -> None:
        self._settings, self._allowed, self._on_event, self._chores = settings, allowed, on_event, chores
        identity = settings.identity
        try:
            app = flower.make_app(
                str(settings.database),
                certificate=str(identity.certificate),
                key=str(identity.key),
                ca=str(identity.ca),
                port=settings.private_port,
            )
            self._state = flower.link_state(app)
            for engine in flower.engines(self._state):
                keep_nothing(engine)
        except flower.DatabaseProblem as error:
            raise RunError(
                f"Expected Flower's database in {settings.database}, got: {str(error)[:200]}. Restore a backup, or "
                "move the file away: committed rounds are not in it, the campaign goes on."
            ) from None
        banks_bell, coordinator_bell = Doorbell(), Doorbell()
        objects = Objects(settings.database.parent)
        self._gate = PublicGate(app, settings.limits, banks_bell, coordinator_bell, self._refused, objects, releases)
        private = PrivateGate(app, settings.token, banks_bell, coordinator_bell, pages, objects)
        self._servers: tuple[QuietServer, ...] = (
            private_server(private, settings.private_port, identity),
            public_server(self._gate, settings.public_host, settings.public_port, identity, settings.limits),
        )
        self._known: dict[str, tuple[str, str]] = {}
        self._told: dict[tuple[str, int], float] = {}
        self._cleaned_at, self._forgotten = float("-inf"), set[int]()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Both listeners and the roster's watch, until one of them ends."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        await self._follow_roster(first=True)
        watch = asyncio.create_task(self._watch(on_ready))
        try:
            await asyncio.gather(*(self._serve(server) for server in self._servers))
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _serve(self, server: QuietServer) -> None:
        try:
            await server.serve()
        except SystemExit:  # what uvicorn does when an address is taken
            raise RunError(
                f"Expected port {server.config.port} of {server.config.host} to be free, got another listener there. "
                "Stop it, or choose another port."
            ) from None
        finally:
            self._stop()  # half a coordinator is none

    def _stop(self) -> None:
        for server in self._servers:
            server.should_exit = True

    async def _watch(self, on_ready: Callable[[], None]) -> None:
        while not all(server.started for server in self._servers):
            await asyncio.sleep(0.02)
        on_ready()
        while True:
            await asyncio.sleep(self._settings.roster_interval_s)
            await self._follow_roster(first=False)
            if time.monotonic() - self._cleaned_at > _CLEAN_EVERY_S:
                await self._clean()

    async def _clean(self) -> None:
        """Give the database's space back that finished runs take, and do the chores."""
        self._cleaned_at = time.monotonic()
        try:
            await asyncio.to_thread(flower.forget_finished_runs, self._state, self._forgotten)
        except flower.DatabaseProblem as error:
            _LOG.error("finished runs could not be cleaned up: %s", error)
        try:
            await asyncio.to_thread(self._chores)
        except Exception:  # noqa: BLE001 - a chore that fails is tried again in a minute; banks are served meanwhile
            _LOG.exception("a chore failed")

    async def _follow_roster(self, *, first: bool) -> None:
        """Open to who is in the roster now. If it cannot be read, whoever was admitted before stays so."""
        try:
            allowed = dict(await asyncio.to_thread(self._allowed))
            if first or allowed != self._known:
                await self._admit(allowed)
        except Exception as error:
            if first:
                raise
            _LOG.error("The roster cannot be followed, the members of before stay: %s", error)
            self._tell("roster-unreadable", {"reason": str(error)})

    async def _admit(self, allowed: dict[str, tuple[str, str]]) -> None:
        members = {
            certificate.lower(): Admitted(bank, flower.node_key_bytes(key))
            for bank, (key, certificate) in allowed.items()
        }
        # Out at once, in only when Flower knows the node key too.
        self._gate.members = {known: members[known] for known in self._gate.members.keys() & members.keys()}
        await asyncio.to_thread(self._register, members)
        self._gate.members = members
        for bank in sorted(self._known.keys() - allowed.keys()):
            self._tell("removed", {"bank": bank})
        for bank in sorted(allowed.keys() - self._known.keys()):
            self._tell("admitted", {"bank": bank})
        self._known = allowed

    def _register(self, members: Mapping[str, Admitted]) -> None:
        keys = {member.node_key: member.bank for member in members.values()}
        for key in flower.registered_keys(self._state) - keys.keys():
            flower.unregister_node(self._state, key)
        for key, bank in keys.items():
            try:
                flower.register_node(self._state, bank, key)
            except ValueError:
                _LOG.error("%s was removed with this node key before; it comes back only with a new one.", bank)
                self._tell("refused", {"bank": bank, "reason": "its node key was removed before"})

    def _refused(self, who: str, path: str, status: int, reason: str) -> None:
        """Tell of the first refusal of a kind in a minute: whoever is refused cannot fill our disk with it."""
        kind, now = (who[:64], status), time.monotonic()
        if now - self._told.get(kind, -_TELL_EVERY_S) < _TELL_EVERY_S:
            return
        if len(self._told) > _MAX_TOLD:
            self._told.clear()
        self._told[kind] = now
        _LOG.warning("refused %s: %s got %d: %s", path[:80], who[:64] or "nobody", status, reason)
        self._tell("refused", {"who": who[:64], "path": path[:80], "status": status, "reason": reason})

    def _tell(self, kind: str, about: Mapping[str, Any]) -> None:
        try:
            self._on_event(kind, about)
        except Exception:  # noqa: BLE001 - a full disk at whoever is told must not keep a revoked bank in
            _LOG.exception("an event could not be told: %s %s", kind, about)
