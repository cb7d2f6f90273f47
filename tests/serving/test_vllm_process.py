"""An engine that is a child process: a stand-in for vLLM that speaks its protocol, and programs that do not start."""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from serving_models import QUESTIONS, answer_of, asking, collected, expected_text, write_tiny_adapter

from fedbank.model.folder import tiny_folder
from fedbank.serving.engines.interface import DownError
from fedbank.serving.engines.vllm import Vllm, VllmProcess

SERVER = Path(__file__).with_name("openai_server.py")


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))  # type: ignore[arg-type]


def program(folder: Path, script: str) -> Vllm:
    """Settings whose program is that shell script."""
    path = folder / "vllm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return Vllm(tiny_folder(), folder / "vllm.log", str(path), start_s=60.0)


@pytest.mark.slow
def test_a_child_is_started_answers_with_a_release_and_is_ended(tmp_path: Path) -> None:
    settings = program(tmp_path, f'echo "$@" > {tmp_path}/words; exec {sys.executable} {SERVER} "$@"')
    adapted = write_tiny_adapter(tmp_path / "one")

    async def test() -> None:
        process = VllmProcess(settings)
        engine = await process.start()
        try:
            (child,) = [one for one in psutil.Process().children() if str(SERVER) in " ".join(one.cmdline())]
            await engine.load("one", tmp_path / "one")
            pieces = await collected(engine.generate(asking(QUESTIONS[0], release="one")))
            assert answer_of(pieces) == expected_text(adapted.base, QUESTIONS[0])
            words = (tmp_path / "words").read_text()
            assert "--host 127.0.0.1" in words and "--enable-lora" in words
            assert engine._endpoint.key not in words
            anybody = type(engine)(replace(engine._endpoint, key="a guess"))
            with pytest.raises(DownError, match="API key"):
                await collected(anybody.generate(asking("hi")))
            await anybody.close()
        finally:
            await engine.close()
            await process.stop()
        assert not child.is_running()

    run(test)


def test_a_program_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    settings = program(tmp_path, "echo no such model; exit 3")

    async def test() -> None:
        with pytest.raises(DownError, match=r"exit code 3.*vllm\.log"):
            await VllmProcess(settings).start()
        assert settings.log.read_text() == "no such model\n"

    run(test)


def test_a_program_that_is_not_ready_in_time_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    settings = replace(program(tmp_path, f"sleep 300 & echo $! > {tmp_path}/worker; wait"), start_s=0.5)

    async def test() -> None:
        began = time.monotonic()
        with pytest.raises(DownError, match=r"ready within 0\.5 s"):
            await VllmProcess(settings).start()
        assert time.monotonic() - began < 14

    run(test)
    worker = int((tmp_path / "worker").read_text())
    assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE


def test_a_program_that_is_not_installed_is_reported(tmp_path: Path) -> None:
    settings = replace(program(tmp_path, ""), program=str(tmp_path / "nothing"))

    async def test() -> None:
        with pytest.raises(DownError, match="Install vLLM"):
            await VllmProcess(settings).start()

    run(test)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs util-linux")
def test_a_child_does_not_outlive_a_service_that_is_killed(tmp_path: Path) -> None:
    program(tmp_path, f"echo $$ > {tmp_path}/child; exec sleep 60")
    script = (
        "import asyncio, pathlib; from fedbank.serving.engines.vllm import Vllm, VllmProcess; "
        f"path = pathlib.Path({str(tmp_path)!r}); "
        "asyncio.run(VllmProcess(Vllm(path, path / 'log', str(path / 'vllm'))).start())"
    )
    service = subprocess.Popen([sys.executable, "-c", script])
    try:
        _until(lambda: (tmp_path / "child").is_file() and (tmp_path / "child").read_text().endswith("\n"))
    finally:
        service.kill()
        service.wait()
    child = int((tmp_path / "child").read_text())
    _until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
