"""Who may use which route: nobody without a token that has the right, and no route that says nothing."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from serving_world import (
    AGENT,
    AT,
    AUDITOR,
    CUSTOMER,
    OPERATOR,
    POLICY,
    QUESTION,
    ROLES,
    Braked,
    Setting,
    World,
    a_service,
    hmac_with_public_key,
    token,
    until,
)

from fedbank.serving.access.jwks import KeySetError, KeySource
from fedbank.serving.access.rights import RIGHTS, Role
from fedbank.serving.access.tokens import TokenVerifier
from fedbank_client.serving.guard import BankRoute, needs, open_to_all
from fedbank_client.serving.limits import Rates

TABLE: dict[tuple[str, str], set[str]] = {
    ("POST", "/v1/query"): {CUSTOMER, AGENT},
    ("POST", "/v1/chat/completions"): {CUSTOMER, AGENT},
    ("GET", "/v1/models"): {CUSTOMER, AGENT},
    ("POST", "/v1/batch_query"): {AGENT},
    ("GET", "/v1/jobs/{job_id}"): {AGENT},
    ("DELETE", "/v1/jobs/{job_id}"): {AGENT},
    ("POST", "/v1/feedback"): {CUSTOMER},
    ("GET", "/v1/feedback"): {AGENT},
    ("POST", "/v1/feedback/{request_id}/review"): {AGENT},
    ("GET", "/v1/operator/status"): {OPERATOR},
    ("POST", "/v1/operator/promote"): {OPERATOR},
    ("POST", "/v1/operator/rollback"): {OPERATOR},
    ("POST", "/v1/operator/erase"): {OPERATOR},
    ("GET", "/v1/audit/entries"): {AUDITOR},
    ("GET", "/v1/audit/checkpoint"): {AUDITOR},
    ("GET", "/metrics"): {OPERATOR},
}
OPEN = {"/health", "/ready", "/openapi.json", "/", "/operator", "/pages/{name}", "/v1/development/token"}


def routes_of(app: FastAPI) -> list[BankRoute]:
    """All of them; another kind of route fails the test."""
    assert all(type(route) is BankRoute for route in app.routes)
    return [route for route in app.routes if isinstance(route, BankRoute)]


def test_every_route_declares_who_may_use_it_and_the_table_is_all_of_them(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path, Setting(development=True)) as world:
            guarded, open_paths = {}, set()
            for route in routes_of(world.app):
                for method in route.methods or ():
                    if route.access.rights:
                        roles = {role.value for role in Role if RIGHTS[role] & route.access.rights}
                        guarded[(method, route.path)] = roles
                    else:
                        open_paths.add(route.path)
            assert guarded == TABLE
            assert open_paths == OPEN

    asyncio.run(run())


def test_a_route_that_declares_nothing_cannot_be_made() -> None:
    async def endpoint() -> None:
        """Says nothing."""

    with pytest.raises(TypeError, match="declares no right"):
        APIRouter(route_class=BankRoute).get("/v1/new")(endpoint)
    with pytest.raises(ValueError, match="open_to_all"):
        needs()
    APIRouter(route_class=BankRoute).get("/v1/new")(open_to_all(endpoint))


def test_the_application_itself_makes_no_other_kind_of_route(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world:

            async def endpoint() -> None:
                """Says nothing."""

            with pytest.raises(TypeError):
                world.app.get("/v1/new")(endpoint)

    asyncio.run(run())


def test_each_role_reaches_its_own_routes_and_no_other(tmp_path: Path) -> None:
    async def status(world: World, role: str | None, method: str, path: str) -> int:
        async with world.client(role) as client:
            answer = await client.request(method, path.format(job_id="job-x", request_id="r-x"))
        assert answer.headers["content-type"].startswith("application/") or answer.status_code == 200
        return answer.status_code

    async def run() -> None:
        async with a_service(tmp_path) as world:
            for (method, path), allowed in TABLE.items():
                assert await status(world, None, method, path) == 401, path
                for role in ROLES:
                    found = await status(world, role, method, path)
                    assert (found not in (401, 403)) == (role in allowed), (role, path, found)

    asyncio.run(run())


BAD_TOKENS = {
    "expired": lambda: token(nbf=AT - 900, exp=AT - 300),
    "not yet valid": lambda: token(nbf=AT + 300, exp=AT + 600),
    "for another audience": lambda: token(aud="https://other.test"),
    "of another issuer": lambda: token(iss="https://other.test"),
    "of an unknown role": lambda: token(roles=["admin"]),
    "of two roles": lambda: token(roles=[CUSTOMER, OPERATOR]),
    "of a key that nobody knows": lambda: token("ed-unknown"),
    "with the public key as a secret": lambda: hmac_with_public_key("ed"),
    "without a signature": lambda: token().rpartition(".")[0] + ".",
    "no token": lambda: "zhang.wei",
}


@pytest.mark.parametrize("bad", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_token_that_is_not_accepted_is_401_before_the_body_is_read(bad: Any, tmp_path: Path) -> None:
    async def body() -> Any:
        raise AssertionError("the body was read")
        yield b""

    async def run() -> None:
        async with a_service(tmp_path) as world, world.client(None) as client:
            answer = await client.post("/v1/query", content=body(), headers={"Authorization": f"Bearer {bad()}"})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Bearer realm="fedbank", error="invalid_token"'
            assert answer.json()["type"] == "urn:fedbank:problem:unauthorized"
            assert world.answers_of() == []
            assert "zhang.wei" not in answer.text

    asyncio.run(run())


def test_a_token_counts_in_the_header_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client(None) as client:
            good = token(roles=[CUSTOMER])
            for answer in (
                await client.get("/v1/models", params={"access_token": good}),
                await client.get("/v1/models", headers={"Cookie": f"token={good}"}),
                await client.get("/v1/models", headers={"Authorization": f"Basic {good}"}),
            ):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == 'Bearer realm="fedbank"'
            assert b"unauthorized" in world.service.monitor.exposition()

    asyncio.run(run())


def test_without_keys_of_the_identity_provider_nobody_is_let_in_and_it_is_503(tmp_path: Path) -> None:
    def fetch() -> bytes:
        raise KeySetError("Expected the key set at https://10.0.0.7/keys, got nothing.")

    async def ask(setting: Setting, folder: Path) -> httpx.Response:
        async with a_service(folder, setting) as world, world.client() as client:
            return await client.get("/v1/models")

    def away() -> TokenVerifier:
        return TokenVerifier(POLICY, KeySource(fetch, "the test"))

    for number, verifier in enumerate((None, away())):
        folder = tmp_path / str(number)
        folder.mkdir()
        answer = asyncio.run(ask(Setting(verifier=verifier), folder))
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:fedbank:problem:keys-unavailable")
        assert "10.0.0.7" not in answer.text


def test_a_customer_speaks_for_nobody_else_and_an_agent_says_for_whom(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world:
            async with world.client() as client:
                answer = await client.post("/v1/query", json={"question": QUESTION, "customer": "C-2"})
                assert answer.status_code == 403
            async with world.client(AGENT, "li.na") as agent:
                answer = await agent.post("/v1/query", json={"question": QUESTION})
                assert answer.status_code == 422
                answer = await agent.post("/v1/query", json={"question": QUESTION, "customer": "C-2"})
                assert answer.status_code == 200
            assert [len(world.answers_of(name)) for name in ("C-10023", "C-2", "li.na")] == [0, 1, 0]

    asyncio.run(run())


def test_each_principal_has_a_rate_of_its_own_and_is_told_when_to_come_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path, Setting(rates=Rates(0.25, 2))) as world:
            async with world.client() as client:
                answers = [await client.get("/v1/models") for _ in range(3)]
            async with world.client(subject="C-2") as other:
                free = await other.get("/v1/models")
            assert [answer.status_code for answer in (*answers, free)] == [200, 200, 429, 200]
            assert 1 <= int(answers[2].headers["retry-after"]) <= 4
            assert answers[2].json()["type"] == "urn:fedbank:problem:rate-limited"
            assert b'kind="rate-limited"' in world.service.monitor.exposition()

    asyncio.run(run())


def test_one_principal_has_a_bound_on_questions_that_are_being_answered(tmp_path: Path) -> None:
    async def run() -> None:
        braked = Braked(free=0)
        setting = Setting(engine=braked, rates=Rates(1000, 1000, most_open=2))
        async with (
            a_service(tmp_path, setting) as world,
            world.client() as client,
            world.client(subject="C-2") as other,
        ):
            asking = [asyncio.create_task(client.post("/v1/query", json={"question": "loan"})) for _ in range(2)]
            await until(lambda: braked.inside == 2)
            refused = await client.post("/v1/query", json={"question": "loan"})
            assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
            assert (await client.post("/v1/feedback", json={"request_id": "r", "helpful": True})).status_code == 404
            asking.append(asyncio.create_task(other.post("/v1/query", json={"question": "loan"})))
            await until(lambda: braked.inside == 3)
            braked.go.set()
            assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200, 200, 200]
            assert (await client.post("/v1/query", json={"question": "loan"})).status_code == 200

    asyncio.run(run())
