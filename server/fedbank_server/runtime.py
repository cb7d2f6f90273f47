"""The line from a ``ServerApp``'s process to the SuperLink's private listener: one run, claimed and kept alive.

A run of Flower is made for an app bundle. Ours is a ``pyproject.toml`` without code, because Flower asks for one;
nobody ever unpacks it.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from flwr.app import Message

from fedbank.errors import RunError
from fedbank_server import flower_hooks as flower

_LOG = logging.getLogger("fedbank.grid")
_HEARTBEAT_S = 10.0
_PAUSE_S = (0.1, 2.0)
_QUIET_S = 1.0
"""An absence that is shorter is nobody's concern."""
_TELL_EVERY_S = 3600.0
_T = TypeVar("_T")


class LostRunError(Exception):
    """Flower has ended the run: it was not heard of for a minute, or an operator stopped it."""


class NotYetError(Exception):
    """An object of a reply has been announced and has not arrived."""


class RuntimeLine:
    """Calls to the SuperLink, each tried again for ``patience_s`` seconds while it is away.

    ``say`` is told at once and every hour.
    """

    def __init__(
        self,
        address: str,
        certificate: Path,
        token: str,
        *,
        patience_s: float,
        stop: threading.Event,
        say: Callable[[str], None],
    ) -> None:
        self._address, self._patience_s, self._stop, self._say = address, patience_s, stop, say
        self._bearer, self._headers = flower.Headers(), flower.Headers()
        self._bearer.values["authorization"] = self._headers.values["authorization"] = f"Bearer {token}"
        context = flower.pinned_context(str(certificate))
        self._control = flower.ControlHttpClient(f"https://{address}", interceptors=[self._bearer], verify=context)
        self._runtime = flower.RuntimeHttpClient(f"https://{address}", interceptors=[self._headers], verify=context)
        self._node = flower.Node(node_id=flower.SUPERLINK_NODE_ID)
        self._ended = threading.Event()
        self.run_id = self.task_id = 0
        self.doubted = datetime(1970, 1, 1, tzinfo=UTC)
        """When a pull failed last: what it would have brought may be lost, for Flower hands out a reply once."""

    def claim(self) -> None:
        """End whatever an earlier process left running, start a run and make it this process's."""
        for run_id in self._unfinished():
            self._call(partial(self._control.StopRun, flower.StopRunRequest(run_id=run_id)))
        self._call(lambda: self._control.StartRun(flower.StartRunRequest(fab=flower.bundle())))
        self._headers.values.pop(flower.TASK_TOKEN_HEADER, None)
        request = flower.AcquireTaskRequest(supported_task_types=[flower.TaskType.SERVER_APP])
        claimed = self._call(lambda: self._runtime.AcquireTask(request))
        if not claimed.token:
            raise RunError("Expected Flower to hand out the run that was just started, got nothing. Run one at a time.")
        self._headers.values[flower.TASK_TOKEN_HEADER] = claimed.token
        begun = self._call(lambda: self._runtime.PullTaskInput(flower.PullTaskInputRequest()))
        self.run_id, self.task_id = int(begun.run.run_id), int(begun.task_id)
        flower.set_identity(self.run_id, self.task_id)

    def start_heartbeat(self) -> None:
        """Keep the run alive from a thread until ``close``."""
        threading.Thread(target=self._beat, name="run-heartbeat", daemon=True).start()

    def nodes(self) -> list[Any]:
        """Flower's records of the nodes that are online."""
        found = self._call(lambda: self._runtime.GetNodes(flower.GetNodesRequest())).nodes
        return [node for node in found if node.status == "online"]

    def push(self, message: Message) -> str:
        """Send one message with all its objects; its id at the SuperLink, or "" if its node is not registered."""
        header, tree, objects = flower.deflate(message)
        self._headers.values["fedbank-for"] = str(message.metadata.dst_node_id)
        request = flower.PushAppMessagesRequest(messages_list=[header], message_object_trees=[tree])
        while True:
            answer = self._call(lambda: self._runtime.PushMessages(request))
            if not answer.message_ids[0]:
                return ""
            stored = [self._push_object(answer.session_id, found, objects[found]) for found in answer.objects_to_push]
            if all(stored):
                return str(answer.message_ids[0])

    def pull(self, message_ids: set[str], wait_s: float) -> list[tuple[Any, Any]]:
        """Headers and object trees of the replies that are there."""
        self._headers.values["fedbank-wait"] = f"{wait_s:g}"
        request = flower.PullAppMessagesRequest(message_ids=message_ids)
        answer = self._call(lambda: self._runtime.PullMessages(request), self._doubt)
        return list(zip(answer.messages_list, answer.message_object_trees, strict=True))

    def pull_object(self, object_id: str) -> bytes:
        """An object of a reply; ``NotYetError`` while it is on its way, ``LookupError`` if it never will be."""
        request = flower.PullObjectRequest(node=self._node, run_id=self.run_id, object_id=object_id)
        answer = self._call(lambda: self._runtime.PullObject(request))
        if not answer.object_found:
            raise LookupError(object_id)
        if not answer.object_available:
            raise NotYetError(object_id)
        return bytes(answer.object_content)

    def confirm(self, message_id: str) -> None:
        """Let the SuperLink forget a reply."""
        request = flower.ConfirmMessageReceivedRequest(
            node=self._node, run_id=self.run_id, message_object_id=message_id
        )
        self._call(lambda: self._runtime.ConfirmMessageReceived(request))

    def close(self) -> None:
        """End the run, if the SuperLink can be told so at once; it then deletes what the run has left."""
        self._ended.set()
        try:
            self._control.StopRun(flower.StopRunRequest(run_id=self.run_id))
        except (httpx.HTTPError, ValueError) as error:
            _LOG.info("the run's end was not told: %s", error)
        self._control.close()
        self._runtime.close()

    def _doubt(self) -> None:
        self.doubted = datetime.now(UTC)

    def _push_object(self, session_id: str, object_id: str, content: bytes) -> bool:
        request = flower.PushObjectRequest(
            node=self._node, run_id=self.run_id, object_id=object_id, object_content=content, session_id=session_id
        )
        return bool(self._call(lambda: self._runtime.PushObject(request)).stored)

    def _unfinished(self) -> list[int]:
        runs = self._call(lambda: self._control.ListRuns(flower.ListRunsRequest())).run_dict
        return [run_id for run_id, run in runs.items() if run.status.status != "finished"]

    def _beat(self) -> None:
        while not self._ended.wait(_HEARTBEAT_S):
            try:
                self._runtime.SendTaskHeartbeat(flower.SendTaskHeartbeatRequest())
            except (httpx.HTTPError, ValueError) as error:
                _LOG.info("no heartbeat of the run: %s", error)

    def _call(self, request: Callable[[], _T], failed: Callable[[], None] = lambda: None) -> _T:
        pause_s, began, told_at = _PAUSE_S[0], time.monotonic(), -math.inf
        while True:
            try:
                answer = request()
                if told_at > began:
                    self._tell(f"The SuperLink answers again after {time.monotonic() - began:.0f} s.")
                return answer
            except httpx.HTTPStatusError as error:
                self._give_up(error.response)
                problem: Exception = error
            except httpx.TransportError as error:
                problem = error
            failed()
            now = time.monotonic()
            if now - began > self._patience_s:
                raise RunError(
                    f"Expected the SuperLink at {self._address} to answer within {self._patience_s:.0f} s, got: "
                    f"{problem}. {_advice(problem)} Then run the campaign again: it goes on where it is."
                )
            if now - began > _QUIET_S and now - told_at > _TELL_EVERY_S:
                told_at = now
                self._tell(
                    f"The SuperLink at {self._address} does not answer since {now - began:.0f} s ({problem}); the "
                    f"campaign waits for it and loses nothing. {_advice(problem)}"
                )
            self._wait(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S[1])

    def _give_up(self, response: httpx.Response) -> None:
        """Return if it is worth trying again."""
        status, said = response.status_code, response.text[:200]
        if status == 401 and '"code"' in said:  # Flower's refusal of the run's token, not ours of the operator's
            raise LostRunError
        if status < 500 and status != 429:
            raise RunError(f"Expected the SuperLink at {self._address} to obey, got {status}: {said}")

    def _tell(self, text: str) -> None:
        _LOG.warning("%s", text)
        self._say(text)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise RunError("Expected to go on, was asked to stop while the SuperLink was away. Run the campaign again.")


def _advice(problem: Exception) -> str:
    """What a person can do about a SuperLink that is away."""
    if "CERTIFICATE_VERIFY_FAILED" in str(problem):
        return "It shows another certificate than server.pem, which was renewed: fedbank server stop, then start it."
    return "Does fedbank server start run?"
