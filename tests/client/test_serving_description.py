"""What the service says of itself: its OpenAPI description, its pages and its headers; and nothing from elsewhere."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from serving_world import Setting, a_service

from fedbank_client.serving import bodies, openai_bodies, routes_pages
from fedbank_client.serving.app import describe
from fedbank_client.serving.problems import CAUSES, KINDS

MODELS: dict[str, type[BaseModel]] = {
    name: found
    for module in (bodies, openai_bodies)
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, BaseModel)
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "formats" / "problems.md"


def described(folder: Path) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with a_service(folder, Setting(development=True)) as world:
            return describe(world.app)

    return asyncio.run(run())


def test_every_operation_has_examples_its_problems_and_its_security(tmp_path: Path) -> None:
    api = described(tmp_path)
    assert api["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            statuses = set(operation["responses"])
            assert {"500", "503", "504"} <= statuses, path
            if operation["security"]:
                assert operation["security"] == [{"bearer": []}] and {"401", "403", "429"} <= statuses, path
            if method == "post":
                assert {"400", "408", "413", "415", "422"} <= statuses, path
            for status, answer in operation["responses"].items():
                assert int(status) < 400 or set(answer["content"]) == {"application/problem+json"}, path
    assert "HTTPValidationError" not in json.dumps(api)


def test_the_examples_are_what_the_schemas_say(tmp_path: Path) -> None:
    api = described(tmp_path)
    schemas, found = api["components"]["schemas"], 0
    for name, schema in schemas.items():
        for example in schema.get("examples", []):
            MODELS[name].model_validate_json(json.dumps(example))
            found += 1
    assert found >= 15
    for operation in (one for methods in api["paths"].values() for one in methods.values()):
        for answer in operation["responses"].values():
            for kind in answer.get("content", {}).get("application/problem+json", {}).get("examples", {}).values():
                problem = schemas["Problem"]
                assert set(problem["required"]) <= kind["value"].keys() <= problem["properties"].keys()
                assert kind["value"]["type"] in problem["properties"]["type"]["enum"]


def test_every_problem_is_in_the_document_with_its_status_and_its_causes() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \|([^|]*)\|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert {name: int(status) for name, status, _ in rows} == {kind.name: kind.status for kind in KINDS}
    said = {name: causes for name, _, causes in rows}
    for cause, kind in CAUSES:
        assert f"`{cause.__name__}`" in said[kind.name], cause.__name__


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_inline(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client(None) as client:
            for path in ("/", "/operator", *(f"/pages/{name}" for name in routes_pages._FILES)):
                answer = await client.get(path)
                assert answer.status_code == 200, path
                assert "default-src 'none'" in answer.headers["content-security-policy"]
                assert "unsafe" not in answer.headers["content-security-policy"]
                if answer.headers["content-type"].startswith("text/html"):
                    page = answer.text
                    assert not re.search(r"(src|href)=[\"']?(https?:|//)", page)
                    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\son\w+=|style=", page)
            for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
                assert (await client.get(path)).status_code == 404

    asyncio.run(run())


def test_every_answer_has_the_headers_that_keep_it_where_it_belongs(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client() as client:
            for path in ("/health", "/v1/models", "/v1/none", "/metrics", "/openapi.json"):
                headers = (await client.get(path)).headers
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["referrer-policy"] == "no-referrer"
                assert path == "/health" or not path.startswith("/v1") or headers["cache-control"] == "no-store"
                assert len(headers["x-request-id"]) == 16
                assert "access-control-allow-origin" not in headers

    asyncio.run(run())
