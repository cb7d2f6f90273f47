"""The service put together from a bank's folder: what it needs to start, what it says, what is left when it stops."""

import asyncio
import hashlib
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from served_bank import bank_home, publish_tiny, tiny_bank

from fedbank.cli import main
from fedbank.config import load_serve
from fedbank.errors import ConfigError, FedBankError, RunError
from fedbank.evidence.verify import verify_log
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.serving.answering import Asker, Question
from fedbank.serving.rollout.desk import NoReleaseError
from fedbank.serving.store.database import RecordsError
from fedbank_client.home import Home, read_home
from fedbank_client.serving.folder import ServiceFolder
from fedbank_client.serving.loops import ReleaseWatch
from fedbank_client.serving.running import serve
from fedbank_client.serving.wiring import Opened, opened_service

ASKER = Asker("a" * 32, "C-10023")
Use = Callable[[Opened], Awaitable[None]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank that has adopted tiny-1: made once, copied for every test."""
    return tiny_bank(tmp_path_factory.mktemp("world"))[2].folder


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Home:
    return read_home(shutil.copytree(prepared, tmp_path / "bank"))


def served(
    home: Home, use: Use, *overrides: str, passphrase: bytes | None = None, said: list[str] | None = None
) -> list[str]:
    """``use`` of an open service; what it said to the console, which is added to ``said``."""
    said = [] if said is None else said

    async def run() -> None:
        async with opened_service(home, load_serve([*overrides]), passphrase, said.append) as opened:
            await ReleaseWatch(opened, said.append).look()
            await use(opened)

    asyncio.run(asyncio.wait_for(run(), 60))
    return said


async def nothing(opened: Opened) -> None:
    """Opened and closed again."""


async def one_answer(opened: Opened) -> None:
    answered = await opened.service.answering.answer(ASKER, Question("How do I open an account?", max_tokens=4))
    assert answered.release == "tiny-1" and answered.aigc["ContentProducer"] == "bank1"


def test_a_bank_that_has_adopted_a_release_answers_with_it_and_keeps_what_it_said(home: Home) -> None:
    said = served(home, one_answer)
    assert said[-1] == "Answers with tiny-1."
    folder = ServiceFolder(home)
    verified = verify_log(folder.evidence, home.load_signing_key().public.raw, [])
    assert verified.entries == 2 and verified.signed == 2  # the release, the answer; the stop has signed both
    assert {path.stat().st_mode & 0o077 for path in (folder.path, folder.records_key, folder.records)} == {0}
    assert b"open an account" not in b"".join(path.read_bytes() for path in folder.path.iterdir() if path.is_file())

    async def read_again(opened: Opened) -> None:
        (exchange,) = opened.service.conversations.of_customer("C-10023")
        assert exchange.question == "How do I open an account?" and exchange.release == "tiny-1"

    served(home, read_again)


@pytest.mark.parametrize(("file", "words"), [("evidence", "A log must not be edited"), ("rollout", "rollout.json")])
def test_a_damaged_file_is_told_before_a_model_is_loaded(file: str, words: str, home: Home) -> None:
    served(home, one_answer)
    path = getattr(ServiceFolder(home), file)
    path.write_bytes(path.read_bytes().replace(b"tiny-1", b"tiny-2", 1)[: -1 if file == "rollout" else None])
    said: list[str] = []
    with pytest.raises(FedBankError, match=words):
        served(home, nothing, said=said)
    assert not said


def test_without_a_release_it_starts_says_why_and_takes_up_what_a_sync_adopts(tmp_path: Path) -> None:
    _, bank, home = tiny_bank(tmp_path, adopted=False)

    async def use(opened: Opened) -> None:
        service = opened.service
        with pytest.raises(NoReleaseError, match="fedbank client sync"):
            await service.answering.answer(ASKER, Question("Hello?"))
        bank.sync()
        await service.releases.look(service.clock())
        assert service.releases.rollout.stable == "tiny-1"
        await one_answer(opened)

    assert "Answers nobody yet: no release may. Run: fedbank client sync" in served(home, use)


def test_a_second_release_goes_its_way_with_the_settings_of_the_bank(tmp_path: Path) -> None:
    world, bank, home = tiny_bank(tmp_path)
    probes = tmp_path / "probes.jsonl"
    probes.write_text('{"question": "How do I open an account?", "expect": "no model says this"}\n')

    async def use(opened: Opened) -> None:
        service, said = opened.service, list[str]()
        watch = ReleaseWatch(opened, said.append)
        publish_tiny(world, "tiny-2")
        bank.sync()
        await watch.look()
        candidate = service.releases.rollout.candidate
        assert candidate is not None and (candidate.release, candidate.share) == ("tiny-2", 0.5)
        assert service.releases.settings.gates.probes == 1 and not service.releases.settings.automatic
        assert said == ["Answers with tiny-1.", "On its way: tiny-2, shadow."]
        while (found := service.releases.rollout.candidate) is not None:  # the probe fails: it is given up by itself
            assert found.release == "tiny-2"
            await asyncio.sleep(0.02)
            await watch.look()
        assert service.releases.view(service.clock())["set_aside"] == "tiny-2"
        await one_answer(opened)

    served(home, use, "rollout.shadow_share=0.5", "rollout.automatic=false", f"rollout.probes={probes}")


def test_a_release_for_another_base_model_is_never_served_and_both_digests_are_said(tmp_path: Path) -> None:
    world, bank, home = tiny_bank(tmp_path, adopted=False)
    world.add("other-1", channel="stable")
    bank.sync()
    said = served(home, nothing)
    (line,) = [line for line in said if "Expected the base model" in line]
    assert hashlib.sha256(b"base").hexdigest() in line and base_digest(tiny_folder()) in line


def test_one_folder_has_one_service(home: Home) -> None:

    async def use(opened: Opened) -> None:
        with pytest.raises(RunError, match="Expected no service that runs"):
            async with opened_service(home, load_serve([]), None, print):
                pass

    served(home, use)
    served(home, nothing)  # and it can start again


def test_the_records_key_may_have_a_passphrase_which_the_next_start_needs(home: Home) -> None:
    served(home, nothing, passphrase=b"a long one")
    served(home, nothing, passphrase=b"a long one")
    for wrong in (None, b"another"):
        with pytest.raises(FedBankError, match="Expected a"):
            served(home, nothing, passphrase=wrong)


def test_records_whose_key_is_gone_are_not_given_a_new_one(home: Home, tmp_path: Path) -> None:
    served(home, nothing)
    folder = ServiceFolder(home)
    folder.records_key.rename(tmp_path / "away")
    with pytest.raises(RecordsError, match="Restore it from a backup"):
        served(home, nothing)
    assert not folder.records_key.exists()
    (tmp_path / "away").rename(folder.records_key)
    served(home, nothing)


def test_a_database_is_named_in_a_file_of_its_owner_or_a_variable(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "database"
    named.write_text(f"sqlite:///{tmp_path}/elsewhere.sqlite\n")
    named.chmod(0o644)
    with pytest.raises(FedBankError, match="chmod 600"):
        served(home, nothing, f"records.database={named}")
    named.chmod(0o600)
    served(home, nothing, f"records.database={named}")
    assert (tmp_path / "elsewhere.sqlite").exists() and not ServiceFolder(home).records.exists()
    monkeypatch.setenv("FEDBANK_DATABASE_URL", "postgresql+psycopg2://user:a-word@nowhere/x")
    with pytest.raises(RecordsError) as refused:
        served(home, nothing)
    assert "a-word" not in str(refused.value)


def test_a_store_of_another_key_leaves_no_new_key_behind(home: Home, tmp_path: Path) -> None:
    served(home, nothing)
    folder = ServiceFolder(home)
    named = tmp_path / "database"
    named.write_text(f"sqlite:///{folder.records}\n")
    named.chmod(0o600)
    other = tmp_path / "other.key"
    with pytest.raises(RecordsError, match="Expected the records key"):
        served(home, nothing, f"records.key={other}", f"records.database={named}")
    assert not other.exists()


def test_the_development_issuer_is_for_this_machine_only(home: Home) -> None:
    with pytest.raises(ConfigError, match="Expected a loopback address"):
        served(home, nothing, "host=0.0.0.0")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["access=provider", "access.issuer=https://login", "access.jwks=missing.json"], "key set"),
        (["rollout.probes=missing.jsonl"], "Expected probe questions"),
        (["instruction=missing.txt"], "the instruction to the model"),
        (["redis.url=missing"], "Expected a secret file"),
        (["model=path", "model.path=missing"], "missing"),
        (["model.device=cuda"], "Expected a CUDA device"),
        (["engine.memory_share=0.0001"], "Choose a smaller model"),
        (["engine=vllm", "engine.program=no-such-program"], "Expected to start no-such-program"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value[0],
)
def test_what_is_missing_is_told_plainly_and_the_folder_is_free_again(
    home: Home, tmp_path: Path, settings: list[str], said: str
) -> None:
    with pytest.raises(FedBankError, match=said):
        served(home, nothing, *settings)
    with ServiceFolder(home).exclusive():
        pass


def test_an_engine_that_is_away_at_the_start_is_waited_for_and_then_reported(home: Home) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    said = served(home, nothing, "engine=openai", f"engine.url={url}", "engine.start_s=0.1")
    assert any("Waiting up to 0.1 s" in line for line in said) and any("starts without it" in line for line in said)


def test_the_instruction_reaches_the_model_before_every_question(home: Home, tmp_path: Path) -> None:
    instruction = tmp_path / "instruction.txt"
    instruction.write_text("Answer in one sentence. 用一句话回答。\n", "utf-8")
    counts = list[int]()

    async def use(opened: Opened) -> None:
        answered = await opened.service.answering.answer(ASKER, Question("Hello?", max_tokens=2))
        counts.append(answered.prompt_tokens)

    served(home, use)
    served(home, use, f"instruction={instruction}")
    assert counts[1] > counts[0] + 5


@pytest.mark.parametrize(
    "line",
    ["", "not json", "[]", '{"question": "a"}', '{"question": "a", "expect": 1}', '{"question": " ", "expect": "b"}'],
)
def test_probe_questions_that_are_none_are_refused_by_their_line_and_not_quoted(tmp_path: Path, line: str) -> None:
    from fedbank_client.serving.probes import read_probes

    path = tmp_path / "probes.jsonl"
    path.write_text('{"question": "Q", "expect": "A"}\n\n' + line if line else "\n")
    with pytest.raises(FedBankError) as refused:
        read_probes(path)
    assert "line 3" in str(refused.value) if line else "got none" in str(refused.value)
    assert "not json" not in str(refused.value)


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = bank_home(tmp_path / "member")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["client", "serve", "--unsupervised", "--dir", str(home.folder), f"port={port}", "model=path"]
        assert main([*words, "model.path=missing"]) == 2
    assert f"Expected to listen on 127.0.0.1, port {port}, got: Address already in use" in capsys.readouterr().err


def test_a_bank_that_has_left_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = bank_home(tmp_path / "member")
    home.notice.write_text("{}")
    assert main(["client", "serve", "--dir", str(home.folder)]) == 2
    assert "which has left" in capsys.readouterr().err


CHILD = """\
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.end_headers()
    do_POST = do_GET
    def log_message(self, *words):
        pass

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def test_an_engine_whose_process_dies_ends_the_service_so_that_both_are_started_again(
    home: Home, tmp_path: Path
) -> None:
    program = tmp_path / "vllm"
    program.write_text(f"#!{sys.executable}\n{CHILD}")
    program.chmod(0o700)
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        if line.startswith("Chat:"):
            (child,) = [one for one in psutil.Process().children() if str(program) in one.cmdline()]
            child.kill()

    config = load_serve(["port=0", "engine=vllm", f"engine.program={program}", "engine.start_s=60"])
    assert serve(home, config, None, tell, 5) is False
    assert "The engine ended by itself (exit code -9)" in said[-1]
    assert "Answers with tiny-1." in said
