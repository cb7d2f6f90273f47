"""The bank's line to the coordinator: Flower's fleet routes over mutual TLS, every failure in plain words."""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from cryptography import x509
from flwr.app import Error, Message

from fedbank.errors import RunError, UpdateError
from fedbank.foreign import printable
from fedbank_client import flower_hooks as flower

_CLOCK_TOLERANCE_S = 4.0
"""Flower accepts a node's time up to 5 s ahead of its own and 305 s behind."""
_OBJECT_RETRY_S, _OBJECT_PATIENCE_S = (0.02, 0.5), 20.0
NOT_UNDERSTOOD = 101
"""Error code of the answer to a message that is not one of ours."""
_MAX_SAID = 200
_T = TypeVar("_T")


class UnreachableError(RunError):
    """The coordinator does not answer, or not as it should: worth trying again."""


class DeniedError(RunError):
    """The coordinator does not admit this node: a person has to do something, here or there."""


class AlreadyOnlineError(RunError):
    """The coordinator still takes an earlier process of this node for present."""


class NotTakenError(UnreachableError):
    """Something refuses this very request, and it is not the coordinator's Flower: a limit, a proxy on the way."""


class NotWantedError(RunError):
    """The coordinator does not take this answer any more: its run is over. It will ask again if it still needs it."""


@dataclass(frozen=True, slots=True)
class NotOurs:
    """A message that is not one record with one bytes value, and the answer to it; ``None``: it cannot be answered."""

    reply: Message | None
    reason: str


@dataclass(frozen=True, slots=True)
class Access:
    """Where the coordinator is and what proves who this bank is: paths of PEM files and the node's OpenSSH key.

    ``others`` are further addresses of the same coordinator.
    """

    address: str
    ca: Path
    certificate: Path
    key: Path
    node_key: Path
    passphrase: bytes | None = None
    max_message_bytes: int = 64 * 1024 * 1024
    wait_s: float = 2.0
    timeout_s: float = 15.0
    presence_s: float = 2.0 * flower.HEARTBEAT_DEFAULT_INTERVAL
    """For how long the coordinator takes the node for present without a heartbeat; 20 s at least."""
    others: tuple[str, ...] = ()

    def next(self) -> "Access":
        """The same by the address that is to be tried after this one."""
        first, *rest = (*self.others, self.address)
        return replace(self, address=first, others=tuple(rest))


class FleetConnection:
    """One node's line. Methods raise one of this module's errors and nothing else; a call may be repeated."""

    def __init__(self, access: Access) -> None:
        self._access, self._interval_s = access, access.presence_s / 2  # Flower waits for two of them
        self._key = flower.read_node_key(access.node_key, access.passphrase)
        self._public_key = flower.public_key_to_bytes(self._key.public_key())
        self._files = _files(access)
        self._client = self._open()
        self._node = flower.Node()

    def take_up(self, access: Access) -> None:
        """Go on by ``access`` if it is another one, or if the certificate was replaced since.

        Raises:
            DeniedError: certificate and key cannot be used; the connection stays as it was.
        """
        files = _files(access)
        if (access, files) == (self._access, self._files):
            return
        before, self._access = self._access, access
        try:
            client = self._open()
        except RunError as error:
            self._access = before
            raise DeniedError(str(error)) from None
        self._client.close()
        self._client, self._files = client, files

    def _open(self) -> flower.FleetHttpClient:
        access = self._access
        return flower.make_client(
            access.address,
            tls_context(access),
            self._key,
            timeout=httpx.Timeout(access.timeout_s, connect=5.0, pool=5.0, read=access.timeout_s + access.wait_s),
            max_bytes=access.max_message_bytes,
            wait_s=access.wait_s,
        )

    def activate(self) -> int:
        """Report for duty; the node's number at the coordinator."""
        response = self._call(
            lambda: self._client.ActivateNode(
                flower.ActivateNodeRequest(
                    public_key=self._public_key,
                    heartbeat_interval=self._interval_s,
                )
            )
        )
        self._node = flower.Node(node_id=response.node_id)
        return int(response.node_id)

    def resume(self, node_id: int) -> None:
        """Go on as the node that another connection of this process has activated."""
        self._node = flower.Node(node_id=node_id)

    def deactivate(self, node_id: int) -> None:
        """Say goodbye; nothing happens if the coordinator takes the node for absent already."""
        try:
            self._call(lambda: self._client.DeactivateNode(flower.DeactivateNodeRequest(node_id=node_id)))
        except (NotWantedError, AlreadyOnlineError):
            return

    def heartbeat(self) -> bool:
        """Tell the coordinator that this node lives; ``False`` if it does not know it."""
        request = flower.SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=self._interval_s)
        return bool(self._call(lambda: self._client.SendNodeHeartbeat(request)).success)

    def pull(self) -> "Message | NotOurs | None":
        """The next message for this node, or ``None`` after a short wait."""
        response = self._call(lambda: self._client.PullMessages(flower.PullMessagesRequest(node=self._node)))
        if not response.messages_list or not response.message_object_trees:
            return None
        header, tree = response.messages_list[0], response.message_object_trees[0]
        run_id = header.metadata.run_id
        message: Message | NotOurs
        try:
            message = flower.inflate(
                tree, lambda object_id: self._pull_object(run_id, object_id), self._access.max_message_bytes
            )
        except UpdateError as error:
            reason = f"The coordinator sent something else than a message of FedBank: {error}"
            message = NotOurs(_not_understood(header), reason)
        request = flower.ConfirmMessageReceivedRequest(node=self._node, run_id=run_id, message_object_id=tree.object_id)
        self._call(lambda: self._client.ConfirmMessageReceived(request))
        return message

    def push(self, reply: Message, seconds: float) -> None:
        """Send the answer to a message; ``seconds`` is how long it took. ``NotTakenError``: not as it is."""
        header, tree, objects = flower.deflate(reply)
        answer = self._call(
            lambda: self._client.PushMessages(
                flower.PushMessagesRequest(
                    node=self._node,
                    messages_list=[header],
                    message_object_trees=[tree],
                    clientapp_runtime_list=[seconds],
                )
            )
        )
        for object_id in answer.objects_to_push:
            if object_id not in objects:
                raise UnreachableError(
                    f"Expected {self._access.address} to ask for a part of this bank's answer, got something else."
                )
            request = flower.PushObjectRequest(
                node=self._node,
                run_id=reply.metadata.run_id,
                object_id=object_id,
                object_content=objects[object_id],
                session_id=answer.session_id,
            )
            self._call(partial(self._client.PushObject, request))

    def close(self) -> None:
        """Close the sockets; the node stays known to the coordinator."""
        self._client.close()

    def _pull_object(self, run_id: int, object_id: str) -> bytes:
        pause_s, waited = _OBJECT_RETRY_S[0], 0.0
        request = flower.PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
        while waited < _OBJECT_PATIENCE_S:
            response = self._call(lambda: self._client.PullObject(request))
            if not response.object_found:
                break
            if response.object_available:
                return bytes(response.object_content)
            time.sleep(pause_s)
            waited, pause_s = waited + pause_s, min(2 * pause_s, _OBJECT_RETRY_S[1])
        raise NotWantedError("The coordinator no longer has the message that it announced; it will ask again.")

    def _call(self, request: Callable[[], _T]) -> _T:
        try:
            return request()
        except httpx.HTTPStatusError as error:
            raise _refusal(error.response, self._access) from None
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise UnreachableError(_silence(error, self._access)) from None
        except ValueError as error:  # an answer that is no protobuf
            raise UnreachableError(f"Expected an answer from {self._access.address}, got: {error!s:.200}") from None


def _not_understood(header: Any) -> Message | None:
    """The answer to a message of which not even the header need make sense."""
    try:
        return Message(Error(NOT_UNDERSTOOD, "not a message of FedBank"), reply_to=flower.message_from_proto(header))
    except Exception:  # noqa: BLE001 - a decode boundary: Flower's decoder raises whatever it stumbles over
        return None


def _files(access: Access) -> tuple[object, ...]:
    """What tells whether the files that TLS uses are still the same."""
    found: list[object] = []
    for path in (access.ca, access.certificate, access.key):
        try:
            about = path.stat()
            found.append((about.st_mtime_ns, about.st_size, about.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)


def tls_context(access: Access) -> ssl.SSLContext:
    """TLS 1.3 with the bank's certificate, to a coordinator whose certificate is the consortium's CA's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=str(access.ca))
        context.load_cert_chain(str(access.certificate), str(access.key), password=lambda: access.passphrase or b"")
    except (ssl.SSLError, OSError) as error:
        raise RunError(
            f"Expected a CA in {access.ca} and a certificate with its key in {access.certificate} and {access.key}, "
            f"got: {error}. Run client join again with the package that the coordinator sent."
        ) from None
    return context


def _refusal(response: httpx.Response, access: Access) -> RunError:
    """The error that stands for an answer with a status of 400 or above."""
    status, said = response.status_code, _said(response)
    if status == 401:
        return DeniedError(_clock(response) or f"{access.address} does not accept this node's signature: {said}")
    if status == 403 and '"code"' not in said:  # Flower's own refusals carry a code: that run is over
        return DeniedError(
            f"{access.address} does not admit {access.certificate}: {said} The bank was revoked or not admitted yet; "
            "ask the coordinator."
        )
    if status == 412:
        return AlreadyOnlineError(f"{access.address} still takes an earlier process of this node for present: {said}")
    if status in (408, 429) or status >= 500:
        return UnreachableError(f"{access.address} answered {status}: {said}")
    kind = NotWantedError if '"code"' in said else NotTakenError
    return kind(f"{access.address} answered {status}: {said}")


def _said(response: httpx.Response) -> str:
    """The beginning of an answer's text. What the answer says of its encoding is not believed: ``httpx`` would look for
    any codec of that name, and some of them raise.
    """
    return printable(response.content[:_MAX_SAID].decode("utf-8", "replace"))


def _clock(response: httpx.Response) -> str:
    """What to do about a clock that is wrong; empty if it is not, as far as the answer's date tells."""
    try:
        theirs = parsedate_to_datetime(response.headers["date"])
        ahead = (datetime.now(UTC) - (theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC))).total_seconds()
    except (KeyError, ValueError, TypeError, OverflowError):
        return ""
    if -300 < ahead <= _CLOCK_TOLERANCE_S:
        return ""
    which = f"{ahead:.0f} s ahead of" if ahead > 0 else f"{-ahead:.0f} s behind"
    return f"This machine's clock is {which} the coordinator's; at most {_CLOCK_TOLERANCE_S:g} s are accepted. Set it."


def _silence(error: Exception, access: Access) -> str:
    """Why nobody answered, with the file and the date if a certificate of ours is to blame."""
    now = datetime.now(UTC)
    for path in (access.certificate, access.ca):
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError):
            continue
        if now > certificate.not_valid_after_utc:
            return f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}. Ask the coordinator for a new one."
        if now < certificate.not_valid_before_utc:
            return f"{path} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC. Check the clock."
    return f"{access.address} cannot be reached: {str(error) or type(error).__name__}"
