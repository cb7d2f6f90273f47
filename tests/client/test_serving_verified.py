"""A service computes with exactly the files whose digest it compared: in its own process and in vLLM."""

import asyncio
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from fedbank.config import ServeConfig, load_serve
from fedbank.errors import ModelError
from fedbank.model.folder import base_digest, file_digests, tiny_folder
from fedbank.model.loading import ModelSpec
from fedbank.serving.engines.interface import DownError
from fedbank.serving.engines.transformers_engine import LocalModel
from fedbank_client.serving.engines import Base, opened_engine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny model, with what a download leaves beside it."""
    target = tmp_path / "agreed model"
    shutil.copytree(tiny_folder(), target, copy_function=shutil.copyfile)
    (target / ".cache").mkdir()
    return target


def settings(folder: Path, tmp_path: Path) -> ServeConfig:
    """vLLM is a program that writes down what it was given, and ends."""
    program = tmp_path / "vllm"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words\nls -A "$2" > {tmp_path}/files\nexit 3\n')
    program.chmod(0o700)
    return load_serve(["engine=vllm", f"engine.program={program}", "model=path", f"model.path={folder}"])


def start(folder: Path, tmp_path: Path, digest: str) -> None:
    base = Base(folder, digest, None, 8, tmp_path / "log")

    async def run() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(opened_engine(settings(folder, tmp_path), base, lambda line: None))

    asyncio.run(asyncio.wait_for(run(), 60))


def test_vllm_is_started_on_the_verified_files_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DownError, match="exit code 3"):
        start(folder, tmp_path, base_digest(folder))
    words = (tmp_path / "words").read_text()
    assert str(folder) not in words and "--served-model-name agreed model " in words
    assert set((tmp_path / "files").read_text().split()) == set(file_digests(folder))


def test_vllm_is_not_started_on_another_base_model(folder: Path, tmp_path: Path) -> None:
    agreed = base_digest(folder)
    (folder / "special_tokens_map.json").write_text('{"eos_token": "a"}')
    with pytest.raises(ModelError, match=f"Expected the base model {agreed[:16]}"):
        start(folder, tmp_path, agreed)
    assert not (tmp_path / "words").exists()


def test_this_process_serves_no_other_base_model(folder: Path) -> None:
    agreed = base_digest(folder)
    (folder / "special_tokens_map.json").write_text('{"eos_token": "a"}')
    with pytest.raises(ModelError, match=f"Expected the base model {agreed[:16]}"):
        LocalModel.load(ModelSpec("path", path=str(folder), device="cpu"), agreed)
