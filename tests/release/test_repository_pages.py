"""What the coordinator serves of the repository, to whom, and what nobody gets out of its folder."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from release_world import World

from fedbank_server.doorbell import Doorbell
from fedbank_server.gate import CERTIFICATE, Admitted, PublicGate
from fedbank_server.limits import Limits
from fedbank_server.repository_pages import PREFIX, RepositoryPages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    world = World(tmp_path)
    world.add("spring-1", channel="stable")
    (tmp_path / "online.key").write_text("secret")
    (tmp_path / "repository" / "online.key").write_text("secret")
    (tmp_path / "repository" / "metadata" / ".hidden").write_text("secret")
    return tmp_path / "repository"


def ask(folder: Path, path: str, method: str = "GET", certificate: str = "a member's") -> tuple[int, bytes]:
    """Status and body of one request through the gate."""
    answer: list[dict[str, Any]] = []

    async def flower(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it is not Flower's")

    async def receive() -> Any:
        raise AssertionError("no body is read")

    async def send(event: Any) -> None:
        answer.append(event)

    gate = PublicGate(
        flower,
        Limits(),
        Doorbell(),
        Doorbell(),
        lambda *refusal: None,
        releases=RepositoryPages(folder),
    )
    gate.members = {"a member's": Admitted("bank1", b"its key")}
    scope = {"type": "http", "method": method, "path": path, "headers": [], "extensions": {CERTIFICATE: certificate}}
    asyncio.run(gate(scope, receive, send))  # type: ignore[arg-type]
    return answer[0]["status"], b"".join(event.get("body", b"") for event in answer[1:])


def test_a_member_gets_every_file_of_the_repository_to_the_byte(folder: Path) -> None:
    served = [path for path in folder.rglob("*.json") if path.is_file()]
    assert len(served) > 6
    for path in served:
        assert ask(folder, PREFIX + str(path.relative_to(folder))) == (200, path.read_bytes())


@pytest.mark.parametrize("certificate", ["", "a stranger's"])
def test_whoever_is_no_member_gets_nothing(folder: Path, certificate: str) -> None:
    status, body = ask(folder, f"{PREFIX}metadata/1.root.json", certificate=certificate)
    assert status == 403 and b"keyid" not in body


@pytest.mark.parametrize("method", ["HEAD", "PUT", "POST", "DELETE", "PATCH"])
def test_nothing_but_get_is_answered(folder: Path, method: str) -> None:
    assert ask(folder, f"{PREFIX}metadata/1.root.json", method) == (405, b"Only GET.")
    assert (folder / "metadata" / "1.root.json").is_file()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "metadata",
        "metadata/",
        "metadata/none.json",
        "online.key",
        "metadata/../online.key",
        "metadata/../../online.key",
        "../online.key",
        "/etc/passwd",
        "metadata//etc/passwd",
        "metadata/.hidden",
        "metadata/1.root.json\n",
        "metadata/1.root.json\0",
        "metadata/" + "x" * 5000,
        "METADATA/1.root.json",
        "targets/releases/spring-1",
    ],
)
def test_no_other_name_leads_to_a_file(folder: Path, name: str) -> None:
    assert ask(folder, PREFIX + name) == (404, b"Not found.")


def test_a_file_that_is_replaced_while_it_is_opened_is_served_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timestamp is, twice a day."""
    path, opened = folder / "metadata" / "timestamp.json", Path.open
    before = path.read_bytes()

    def replaced(self: Path, *words: Any, **named: Any) -> Any:
        file = opened(self, *words, **named)
        if self == path:
            (folder / "next").write_bytes(before + b" " * 7)
            (folder / "next").replace(path)
        return file

    monkeypatch.setattr(Path, "open", replaced)
    sizes = []

    async def send(event: Any) -> None:
        sizes.extend(int(value) for name, value in event.get("headers", ()) if name == b"content-length")

    scope = {"path": f"{PREFIX}metadata/timestamp.json", "method": "GET"}
    asyncio.run(RepositoryPages(folder)(scope, None, send))
    assert sizes == [len(before)]
