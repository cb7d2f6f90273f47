"""The bank's resident node: one process that answers the coordinator with the installed app.

It polls, hands each message to the app on a thread of its own, keeps the coordinator informed that it lives, sends the
answer, and comes back from everything that a network and a coordinator can do to it. It fetches no code and starts no
process: what it runs is what the bank has installed.
"""

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict

from fedbank.durable import open_locked, write_atomic
from fedbank.errors import FedBankError, RunError
from fedbank_client import flower_hooks as flower
from fedbank_client.connection import (
    Access,
    AlreadyOnlineError,
    DeniedError,
    FleetConnection,
    NotOurs,
    NotTakenError,
    NotWantedError,
    UnreachableError,
)

_LOG = logging.getLogger("fedbank.node")
_APP_FAILED = 2
"""Flower's code for an app that raised; the reason stays inside."""
_ATTEMPTS = 3
"""To send an answer that something on the way refuses."""
ClientApp = Callable[[Message, Context], Message]
"""What a ``flwr.clientapp.ClientApp`` is to its caller."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """``status`` is the file that tells how the node is; ``home`` is Flower's own folder, which stays empty.

    ``progress`` is asked what the app is at while it works, for that file; ``None``: nothing to tell. ``retry_s`` are
    the first and the longest pause of a node that is not served: the longest adds to every absence of the coordinator.
    ``predecessor_s``: how long to wait for another process of this node to end, which may first have to wait for two
    answers of a slow coordinator.
    """

    access: Access
    status: Path
    home: Path
    heartbeat_s: float = 10.0
    retry_s: tuple[float, float] = (0.2, 2.0)
    denied_retry_s: float = 10.0
    predecessor_s: float = 40.0
    pause_s: float = 0.05
    progress: Callable[[], Mapping[str, object] | None] = lambda: None


def run_node(settings: NodeSettings, client_app: ClientApp, stop: threading.Event) -> None:
    """Serve ``client_app`` until ``stop`` is set; what goes wrong on the line is in the status file.

    Raises:
        RunError: a key, a certificate or the installed Flower cannot be used, or another process runs this node.
    """
    flower.check_flower()
    os.environ["FLWR_HOME"] = str(settings.home)
    settings.status.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_locked(settings.status.with_suffix(".lock"), write=True, patience_s=settings.predecessor_s):
            _Node(settings, client_app, stop).run()
    except TimeoutError:
        raise RunError(
            f"Expected to be the only process of this node, got another that holds {settings.status}. Stop it first."
        ) from None


@dataclass(slots=True)
class _Answer:
    """What is to be sent, how long it took, and the request if an error may be sent in its place."""

    reply: Message
    seconds: float = 0.0
    request: Message | None = None


class _Node:
    def __init__(self, settings: NodeSettings, client_app: ClientApp, stop: threading.Event) -> None:
        self._settings, self._app, self._stop = settings, client_app, stop
        self._status = _Status(settings.status, settings.progress)
        self._access = settings.access
        self._line = FleetConnection(settings.access)
        self._pulse = _Pulse(settings)
        self._unsent: _Answer | None = None
        self._refused = Counter[str]()
        self._contexts: dict[int, Context] = {}

    def run(self) -> None:
        """Connect, serve, reconnect."""
        pause_s = self._settings.retry_s[0]
        try:
            while not self._stop.is_set():
                try:
                    self._connect()
                    pause_s = self._settings.retry_s[0]
                    self._serve()
                except DeniedError as error:
                    self._status.note("denied", error)
                    self._stop.wait(self._settings.denied_retry_s)
                except (UnreachableError, AlreadyOnlineError, NotWantedError) as error:
                    if isinstance(error, UnreachableError):
                        self._access = self._access.next()
                    self._status.note("offline", error)
                    self._stop.wait(pause_s)
                    pause_s = min(2 * pause_s, self._settings.retry_s[1])
        finally:
            self._leave()

    def _connect(self) -> None:
        """Report for duty anew: that is also how the coordinator learns that a message may have been lost here."""
        self._status.note("connecting")
        self._pulse.pause()
        self._line.take_up(self._access)
        if (earlier := self._status.node_id) is not None:
            self._line.deactivate(earlier)
        self._status.node_id = self._line.activate()
        self._pulse.start(self._status.node_id, self._access)
        self._status.note("online")

    def _serve(self) -> None:
        while not self._stop.is_set() and self._pulse.known:
            if self._unsent is not None:
                self._send(self._unsent)
                continue
            message = self._line.pull()
            self._status.polled()
            if isinstance(message, NotOurs):
                self._status.note("online", RunError(message.reason))
                self._unsent = None if message.reply is None else _Answer(message.reply)
            elif message is None:
                self._stop.wait(self._settings.pause_s)
            else:
                self._unsent = self._answer(message)

    def _answer(self, message: Message) -> "_Answer | None":
        """The app's answer; ``None`` if a stop was asked for before it was there."""
        self._status.note("working")
        began = time.monotonic()
        answers: list[Message] = []
        worker = threading.Thread(target=lambda: answers.append(self._run_app(message)), name="app", daemon=True)
        worker.start()
        while worker.is_alive() and not self._stop.is_set():
            worker.join(0.2)
            self._status.refresh()
        self._status.note("online")
        return _Answer(answers[0], time.monotonic() - began, message) if answers else None

    def _run_app(self, message: Message) -> Message:
        run_id = message.metadata.run_id
        if run_id not in self._contexts:
            node_id = message.metadata.dst_node_id
            self._contexts = {
                run_id: Context(run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={})
            }
        try:
            return self._app(message, self._contexts[run_id])
        except Exception:  # noqa: BLE001 - whatever it is, its text must not leave
            _LOG.exception("the app failed on a message of type %r", message.metadata.message_type)
            return Message(Error(_APP_FAILED, "the bank's app failed"), reply_to=message)

    def _send(self, answer: "_Answer") -> None:
        """Keeps the answer until it is sent, whatever happens to the line meanwhile.

        One that is refused on its way again and again is not sent for ever: the coordinator is told so in its place.
        """
        kind, reply = answer.reply.metadata.message_type, answer.reply
        if self._refused[kind] >= _ATTEMPTS and answer.request is not None:
            reply = Message(
                Error(_APP_FAILED, "the bank's answer was refused on its way; the bank's log says by whom"),
                reply_to=answer.request,
            )
        self._unsent = None
        try:
            self._line.push(reply, answer.seconds)
        except NotWantedError as error:
            _LOG.warning("an answer came too late: %s", error)
        except NotTakenError:  # half an answer can never be completed at Flower: report anew and be asked again
            self._refused[kind] += 1
            self._stop.wait(self._settings.retry_s[1])
            raise
        except UnreachableError:
            self._unsent = answer
            raise
        del self._refused[kind]

    def _leave(self) -> None:
        self._pulse.stop()
        try:
            if self._status.node_id is not None:
                self._line.deactivate(self._status.node_id)
                self._status.node_id = None
            self._status.note("stopped")
        except FedBankError as error:
            self._status.note("stopped", error)
        finally:
            self._line.close()


class _Pulse:
    """Heartbeats on a line and a thread of their own: a long upload or a long training must not look like death."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._access = settings.access
        self._line = FleetConnection(settings.access)
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._node_id = 0
        self.known = True

    def start(self, node_id: int, access: Access) -> None:
        """Beat for ``node_id`` from now on, by ``access``."""
        self._node_id, self._access, self.known = node_id, access, True
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Do not beat: a heartbeat between leaving and reporting again would look like another process."""
        self._node_id = 0

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _beat(self) -> None:
        while not self._ended.wait(self._settings.heartbeat_s):
            if self._node_id == 0:
                continue
            self._line.resume(self._node_id)
            try:
                self._line.take_up(self._access)
                self.known = self._line.heartbeat()
            except RunError as error:
                _LOG.info("no heartbeat: %s", error)
        self._line.close()


class _Status:
    """What ``fedbank client status`` shows: one JSON object, replaced as a whole."""

    def __init__(self, path: Path, progress: Callable[[], Mapping[str, object] | None]) -> None:
        self._path, self._progress = path, progress
        self._state, self._since, self._last_poll = "starting", _now(), ""
        self._last_error, self._written = "", 0.0
        self.node_id = _earlier_node(path)

    def note(self, state: str, error: Exception | None = None) -> None:
        """A new state, and what led to it if it is a bad one."""
        if error is not None and str(error) != self._last_error:
            _LOG.warning("%s", error)
        if error is not None:
            self._last_error = str(error)
        if state != self._state:
            self._state, self._since = state, _now()
        self._write()

    def polled(self) -> None:
        """The coordinator has just answered."""
        self._last_poll = _now()
        self.refresh()

    def refresh(self) -> None:
        """Time has passed; written once a second."""
        if time.monotonic() - self._written >= 1.0:
            self._write()

    def _write(self) -> None:
        about = {
            "state": self._state,
            "since": self._since,
            "last_poll": self._last_poll,
            "last_error": self._last_error,
            "training": self._progress(),
            "node_id": None if self.node_id is None else str(self.node_id),
            "pid": os.getpid(),
        }
        try:
            write_atomic(self._path, json.dumps(about).encode() + b"\n", sync=False)
            self._written = time.monotonic()
        except OSError as error:  # a full disk must not end the node
            _LOG.error("cannot write %s: %s", self._path, error)


def _earlier_node(path: Path) -> int | None:
    """The number that an earlier process had and perhaps never gave back, from its status file."""
    try:
        return int(json.loads(path.read_bytes())["node_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
