"""Requests of every form that the service's own OpenAPI description gives rise to, right and wrong, from every role.

``python schema_attack.py EXAMPLES SEED ...`` sends EXAMPLES of each form to each route for each seed, and prints what
it found: a status 5xx or one that is not declared, a body, header or type that contradicts the description, wrong data
that was taken, a method that is not there and answers.
"""

import asyncio
import contextlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import AcceptedNegativeData, RejectedPositiveData
from serving_world import ROLES, Setting, World, a_service, listening, token

from fedbank.serving.access.rights import RIGHTS, Role
from fedbank.serving.answering import AnswerLimits
from fedbank_client.serving.app import describe
from fedbank_client.serving.guard import BankRoute
from fedbank_client.serving.job_worker import work_on_jobs

hypothesis.configuration.set_hypothesis_home_dir(Path(gettempdir()) / "hypothesis")  # nothing is left beside the tests
MODES = {"right": GenerationMode.POSITIVE, "wrong": GenerationMode.NEGATIVE}
_OTHER_TOKENS = (
    None,
    "",
    "Bearer",
    "Bearer x",
    "Basic eDp5",
    f"Bearer {'a.' * 3000}",
    "Bearer é.ü.ß",
    "Bearer \x7f.a.b",
)
_LEFT_OUT = (
    "ensure_resource_availability",  # what is made here has no address of its own, or is gone when it is cancelled
    "use_after_free",
    "ignored_auth",  # sends requests of its own without the right token; roles are drawn here
)
TOKENS = {role: f"Bearer {token(roles=[role], sub='C-10023')}" for role in ROLES}

_ANY = [*TOKENS.values(), *_OTHER_TOKENS]


@dataclass(slots=True)
class Found:
    """What was seen: statuses by route, and failures by kind with an example of each."""

    sent: int = 0
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[World, str]]:
    """A whole service with its worker in a thread of its own, and its address."""
    ready, stop = threading.Event(), asyncio.Event()
    place: list[Any] = []

    async def serve() -> None:
        setting = Setting(answers=AnswerLimits(max_characters=2000, default_tokens=4, max_tokens=16), development=False)
        async with a_service(folder, setting) as world, listening(world) as port:
            halt = asyncio.Event()
            working = asyncio.create_task(work_on_jobs(world.service, halt, look_s=0.05))
            place.extend((world, f"http://127.0.0.1:{port}", asyncio.get_running_loop()))
            ready.set()
            await stop.wait()
            halt.set()
            await working

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    if not ready.wait(60):
        raise RuntimeError("the service did not start")
    try:
        yield place[0], place[1]
    finally:
        place[2].call_soon_threadsafe(stop.set)
        thread.join(60)


class Attack:
    """One run against one service."""

    def __init__(self, world: World, url: str) -> None:
        self.found, self._url, self._session = Found(), url, requests.Session()
        self._schema = schemathesis.openapi.from_dict(describe(world.app))
        self._schema.config.update(base_url=url)
        self._schema.config.generation.update(with_security_parameters=False)  # tokens are drawn here
        load_all_checks()
        self._checks = [check for name, check in CHECKS._items.items() if name not in _LEFT_OUT]
        self._known = self._real_names()
        self._roles = {
            (method, one.path): _roles(one)
            for one in world.app.routes
            if isinstance(one, BankRoute)
            for method in one.methods
        }

    def run(self, examples: int, seed: int) -> None:
        """``examples`` of right and as many of wrong requests to every route."""
        for result in self._schema.get_all_operations():
            for name, mode in MODES.items():
                self._run_one(result.ok(), name, mode, examples, seed)

    def _run_one(self, operation: Any, name: str, mode: GenerationMode, examples: int, seed: int) -> None:
        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(st.data())
        def send(data: st.DataObject) -> None:
            case = data.draw(operation.as_strategy(generation_mode=mode))
            if mode is GenerationMode.POSITIVE:
                self._make_real(case, data)
            right = self._roles[operation.method.upper(), operation.path]
            self._send(case, data.draw(st.one_of(*3 * [st.sampled_from(right)], st.sampled_from(_ANY))), name)

        with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing of this operation can be wrong
            send()

    def _send(self, case: Any, authorization: str | None, name: str) -> None:
        headers = {} if authorization is None else {"Authorization": authorization.encode()}
        case.headers.pop("Authorization", None)
        response = case.call(session=self._session, headers=headers, timeout=30)
        self.found.sent += 1
        label = case.operation.label
        self.found.statuses[label, response.status_code] += 1
        try:
            case.validate_response(response, checks=self._checks)
        except FailureGroup as group:
            for one in group.exceptions:
                if _is_right(one, response):
                    continue
                known = f"{name} {label} {response.status_code}: {type(one).__name__}: {str(one).splitlines()[0]}"
                example = f"{one}\n{case.as_curl_command()[:1500]}\n-> {response.content[:600]!r}"
                self.found.failures.setdefault(known, example)

    def _real_names(self) -> dict[str, str]:
        """Ids that are there, so that more than 404 is reached."""
        send = self._session.request
        asked = send(
            "POST",
            f"{self._url}/v1/query",
            json={"question": "Why?"},
            headers={"Authorization": TOKENS["customer-channel"]},
        ).json()
        batch = {"questions": [{"customer": "C-10023", "question": "Why?"}]}
        job = send("POST", f"{self._url}/v1/batch_query", json=batch, headers={"Authorization": TOKENS["agent"]}).json()
        return {"request_id": asked["request_id"], "session_id": asked["session_id"], "job_id": job["job_id"]}

    def _make_real(self, case: Any, data: st.DataObject) -> None:
        if not data.draw(st.booleans()):
            return
        for place in (case.path_parameters, case.body):
            if isinstance(place, dict):
                place.update({name: value for name, value in self._known.items() if name in place})
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "fedbank"


def _roles(route: BankRoute) -> list[str | None]:
    """Tokens with which more than 401 and 403 is reached."""
    return [TOKENS[role] for role in ROLES if RIGHTS[Role(role)] & route.access.rights] or [None]


def _is_right(failure: Exception, response: Any) -> bool:
    """What schemathesis cannot know: a right form may hold a password or a blank, and a wrong one may be too large."""
    if isinstance(failure, RejectedPositiveData):
        return response.status_code == 422 and "errors" not in response.json()
    return isinstance(failure, AcceptedNegativeData) and response.status_code == 413


def main(examples: int, seeds: list[int]) -> int:
    with TemporaryDirectory() as folder, served(Path(folder)) as (world, url):
        attack = Attack(world, url)
        for seed in seeds:
            attack.run(examples, seed)
    found = attack.found
    for known, example in sorted(found.failures.items()):
        sys.stdout.write(f"== {known}\n{example}\n\n")
    by_status: dict[str, Any] = {}
    for (label, status), count in sorted(found.statuses.items()):
        by_status.setdefault(label, {})[status] = count
    sys.stdout.write(json.dumps({"sent": found.sent, "failures": len(found.failures), "statuses": by_status}) + "\n")
    return 1 if found.failures else 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), [int(word) for word in sys.argv[2:]]))
