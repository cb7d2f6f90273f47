"""From the settings to an engine that answers: what fits is loaded, what is started is ended again."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedbank.config.schema import EngineConfig, ServeConfig
from fedbank.errors import ModelError
from fedbank.model.verified import AS_STARTED
from fedbank.release.manifest import Manifest
from fedbank.serving.engines.interface import Engine
from fedbank.serving.engines.plan import Card, Precision, Shape, what_fits
from fedbank_client.serving.secret_files import ENGINE_VARIABLE, read_secret

if TYPE_CHECKING:
    from fedbank.serving.engines.vllm import Vllm

_OF_DTYPE: dict[str, Precision] = {"float32": "fp32", "bfloat16": "bf16"}
_LOOK_S = 0.5
_COPIES = 3
"""Merged copies at once: the stable release, the one before it, and a candidate."""
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of an adapter."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Base:
    """The base model that is served: its ``folder`` and what ``base_digest`` says of it.

    ``adopted``: the manifest of the release that is adopted, if one is. ``max_rank``: of any release of this bank.
    """

    folder: Path
    digest: str
    adopted: Manifest | None
    max_rank: int
    log: Path


@dataclass(frozen=True, slots=True)
class Started:
    """An engine, and whether it can come back: ``ended`` gives the exit code of a child that is gone."""

    engine: Engine
    ended: Callable[[], int | None] = lambda: None


def precision_of(config: ServeConfig) -> Precision:
    """What is computed in: the engine's setting, else the base model's. How a model is quantised for training is
    another matter.

    Raises:
        ModelError: the base model's type is none that is served.
    """
    chosen = config.engine.precision or _OF_DTYPE.get(config.model.dtype)
    if chosen is None:
        raise ModelError(f"Expected engine.precision, or a model in {', '.join(_OF_DTYPE)}, got {config.model.dtype}.")
    found: Precision = chosen  # type: ignore[assignment]
    return found


@asynccontextmanager
async def opened_engine(config: ServeConfig, base: Base, say: Say) -> AsyncIterator[Started]:
    """The engine of the settings, until the block ends.

    Raises:
        ModelError: the base model cannot be loaded.
        EngineError: it does not fit, or does not start in time.
    """
    match config.engine.kind:
        case "openai":
            engine: Engine = attached_engine(config.engine, base)
            await _wait_for(engine, config.engine.start_s, say)
        case "vllm":
            async with _started(config, base, say) as started:
                yield started
            return
        case _:
            engine = await asyncio.to_thread(local_engine, config, base, say)
    try:
        yield Started(engine)
    finally:
        await engine.close()


def local_engine(config: ServeConfig, base: Base, say: Say) -> Engine:
    """The base model in this process, if it fits in what is free of this machine's memory."""
    import torch

    from fedbank.model.loading import check_model_source
    from fedbank.serving.engines.batching import Limits
    from fedbank.serving.engines.transformers_engine import LocalModel, TransformersEngine
    from fedbank_client.loading import model_spec

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    engine, precision, shape = config.engine, precision_of(config), Shape.read(base.folder)
    spec = replace(model_spec(config.model), quantisation="none", gradient_checkpointing="none")  # of training
    check_model_source(spec)
    context = min(engine.context, shape.context)
    on_card = config.model.device.startswith("cuda") or (config.model.device == "auto" and torch.cuda.is_available())
    card = Card(_free_bytes(config.model.device, on_card), bandwidth=1.0, share=engine.memory_share)
    share = adapted_share(base.adopted, shape)
    plan = what_fits(shape, precision, card, context=context, adapted_share=share, own=not on_card)
    say(f"Base model {base.digest[:16]} in {precision}: loading ...")
    local = LocalModel.load(spec, base.digest, precision)
    most_tokens = min(plan.cache_tokens, engine.max_running * context)
    limits = Limits(
        engine.max_running,
        engine.max_waiting,
        most_tokens,
        window_s=engine.window_ms / 1000,
        max_wait_s=engine.max_wait_s,
    )
    return TransformersEngine(local, limits)


def adapted_share(manifest: Manifest | None, shape: Shape) -> float:
    """How much of the linear layers the merged copies have for themselves; nothing while no release is adopted."""
    if manifest is None:
        return 0.0
    pairs: dict[str, int] = {}
    for name, (rows, columns) in manifest.shapes().items():  # A is (rank, in), B is (out, rank)
        layer, is_b = name.rpartition(".lora_")[0], ".lora_B" in name
        pairs[layer] = pairs.get(layer, 1) * (rows if is_b else columns)
    return min(1.0, _COPIES * sum(pairs.values()) / shape.linear)


def attached_engine(engine: EngineConfig, base: Base) -> Engine:
    """A server that runs already."""
    from fedbank.serving.engines.openai_engine import Endpoint, OpenAIEngine

    url = str(engine.url).rstrip("/").removesuffix("/v1")
    endpoint = Endpoint(
        url,
        engine.served_name or base.folder.name,
        read_secret(engine.key, ENGINE_VARIABLE) or "",
        first_s=engine.max_wait_s,
        answer_s=engine.answer_s,
        loads=engine.loads,
        most_running=engine.max_running,
    )
    return OpenAIEngine(endpoint)


@asynccontextmanager
async def _started(config: ServeConfig, base: Base, say: Say) -> AsyncIterator[Started]:
    """vLLM as a child on exactly the verified files, with whatever it has started itself ended in the end."""
    from fedbank.model.loading import opened_base
    from fedbank.serving.engines.vllm import VllmProcess
    from fedbank_client.loading import model_spec

    with opened_base(replace(model_spec(config.model), path=str(base.folder))) as opened:
        opened.folder.expect(base.digest, AS_STARTED)
        opened.tokenizer()  # its chat template is tried before vLLM renders it
        process = VllmProcess(_vllm(config, base, opened.folder.path))
        say(f"Base model {base.digest[:16]}: vLLM starts, its log is {base.log} ...")
        started = await process.start()
        try:
            opened.folder.check_unchanged()
            yield Started(started, lambda: process.ended)
        finally:
            try:
                await started.close()
            finally:
                await process.stop()


def _vllm(config: ServeConfig, base: Base, verified: Path) -> "Vllm":
    """How to start it on the folder ``verified``, under the name of the bank's own."""
    from fedbank.serving.engines.vllm import Vllm

    engine = config.engine
    return Vllm(
        verified,
        base.log,
        str(engine.program),
        precision_of(config),
        min(engine.context, Shape.read(verified).context),
        next((rank for rank in _VLLM_RANKS if rank >= base.max_rank), _VLLM_RANKS[-1]),
        engine.memory_share,
        engine.start_s,
        tuple(engine.options),
        name=base.folder.name,
    )


async def _wait_for(engine: Engine, most_s: float, say: Say) -> None:
    """Until it is ready, at most ``most_s`` seconds: then the service starts and says that it is not ready."""
    end, told = time.monotonic() + most_s, False
    while not (health := await engine.health()).ready:
        if time.monotonic() > end:
            say(f"{health.said} The service starts without it and is not ready until it is there.")
            return
        if not told:
            say(f"{health.said} Waiting up to {most_s:g} s ...")
            told = True
        await asyncio.sleep(_LOOK_S)


def _free_bytes(device: str, on_card: bool) -> int:
    """Of the card that is computed on, or of this machine, or of what this process may have of it."""
    import psutil
    import torch

    if on_card:
        if not torch.cuda.is_available():
            raise ModelError(
                "Expected a CUDA device and its driver for model.device=cuda, got none. Use model.device=auto or cpu."
            )
        free: int = torch.cuda.mem_get_info(None if device == "auto" else device)[0]
        return free
    return min(psutil.virtual_memory().available, _group_bytes())


def _group_bytes() -> int:
    """What the control group leaves: a container is ended without a word when it takes more."""
    folder = Path("/sys/fs/cgroup")
    try:
        most = (folder / "memory.max").read_text().strip()
        return int(most) - int((folder / "memory.current").read_text()) if most != "max" else 1 << 62
    except (OSError, ValueError):
        return 1 << 62
