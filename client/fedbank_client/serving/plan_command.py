"""``fedbank client serve plan``: what fits in a card before anything is loaded, or bought."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedbank.cli import EXIT_OK, EXIT_USER_ERROR
from fedbank.command_line import add_json, plain_console, print_json, say
from fedbank.config import ServeConfig, load_serve
from fedbank.config.schema import ModelConfig
from fedbank.errors import ConfigError
from fedbank.serving.engines.interface import EngineError
from fedbank.serving.engines.plan import GIB, PRECISIONS, Card, Plan, Precision, Shape, what_fits

_MIB = 1 << 20
_GB = 1e9
CARDS: Mapping[str, Card] = {
    "rtx3090": Card(24_576 * _MIB, 936 * _GB),
    "rtx4090": Card(24_564 * _MIB, 1008 * _GB),
    "l4": Card(23_034 * _MIB, 300 * _GB),
    "a10": Card(23_028 * _MIB, 600 * _GB),
    "l40s": Card(46_068 * _MIB, 864 * _GB),
    "a100-40": Card(40_960 * _MIB, 1555 * _GB),
    "a100-80": Card(81_920 * _MIB, 2039 * _GB),
    "h20": Card(97_871 * _MIB, 4000 * _GB),
    "h100": Card(81_559 * _MIB, 3350 * _GB),
    "h200": Card(143_771 * _MIB, 4800 * _GB),
}
"""Memory as the driver reports it; memory bandwidth of the data sheet (SXM where there are two)."""
SHAPES: Mapping[str, Shape] = {
    "qwen2_5_0_5b": Shape(24, 896, 14, 2, 64, 4864, 151_936, 32_768, tied=True, biased=True, normed=False),
    "qwen2_5_7b": Shape(28, 3584, 28, 4, 128, 18_944, 152_064, 32_768, tied=False, biased=True, normed=False),
    "qwen3_8b": Shape(36, 4096, 32, 8, 128, 12_288, 151_936, 40_960, tied=False, biased=False, normed=True),
}
"""Of the choices of conf/model that are named by identifier, so that planning needs no download."""
_KEPT_APART = ("openai", "vllm")
"""Engines that keep adapters beside the base model: a second release takes next to nothing."""


def plan_command(words: Sequence[str]) -> int:
    """``fedbank client serve plan [NAME=VALUE ...]``; 2 if it cannot fit."""
    chosen = _parser().parse_intermixed_args(list(words))
    named = [word.partition("=")[0] for word in chosen.overrides]
    config = load_serve(chosen.overrides if "engine" in named else ["engine=vllm", *chosen.overrides])
    card = _card(chosen, config)
    if "engine.precision" in named and "model" in named:
        return _one(chosen, config, card)
    models = {config.model.name: shape_of(config.model)} if "model" in named else dict(SHAPES)
    precisions = [config.engine.precision] if config.engine.precision else list(PRECISIONS)
    return _table(chosen, config, card, models, precisions)


def shape_of(model: ModelConfig) -> Shape:
    """The model's sizes: of its folder if it is here, else those that are published.

    Raises:
        ModelError: there is no configuration of a Qwen model.
    """
    if model.path is None and model.name in SHAPES:
        return SHAPES[model.name]
    from fedbank_client.loading import model_folder  # torch takes seconds

    return Shape.read(model_folder(model))


def adapted_share(config: ServeConfig, share: float = 1.0) -> float:
    """How much of the linear layers a second release takes beside the first; ``share``: of the layers it adapts."""
    return 0.0 if config.engine.kind in _KEPT_APART else share


def _one(chosen: argparse.Namespace, config: ServeConfig, card: Card) -> int:
    plan = _plan(chosen, config, card, shape_of(config.model), config.engine.precision)
    if chosen.json:
        print_json({"model": config.model.name, "fits": True, **asdict(plan)})
    else:
        say(f"{config.model.name} fits.\n{plan.said()}")
    return EXIT_OK


def _table(
    chosen: argparse.Namespace, config: ServeConfig, card: Card, models: Mapping[str, Shape], precisions: Sequence[Any]
) -> int:
    rows: list[tuple[str, str, Plan | str]] = []
    for name, shape in models.items():
        for precision in precisions:
            try:
                rows.append((name, precision, _plan(chosen, config, card, shape, precision)))
            except EngineError as error:
                rows.append((name, precision, str(error)))
    fits = any(isinstance(found, Plan) for *_, found in rows)
    if chosen.json:
        print_json({"plans": [_as_json(*row) for row in rows]})
    else:
        _print(chosen, card, rows)
        if not fits:  # with its figures
            say(str(rows[-1][2]))
    return EXIT_OK if fits else EXIT_USER_ERROR


def _plan(chosen: argparse.Namespace, config: ServeConfig, card: Card, shape: Shape, precision: Any) -> Plan:
    kind: Precision = precision
    context = chosen.context or min(config.engine.context, shape.context)
    share = adapted_share(config, chosen.adapted_share)
    return what_fits(shape, kind, card, context=context, sequences=chosen.sequences, adapted_share=share)


def _as_json(name: str, precision: str, found: Plan | str) -> dict[str, Any]:
    about = {"model": name, "precision": precision, "fits": isinstance(found, Plan)}
    return about | (asdict(found) if isinstance(found, Plan) else {"said": found})


def _print(chosen: argparse.Namespace, card: Card, rows: Sequence[tuple[str, str, Plan | str]]) -> None:
    from rich.table import Table

    table = Table(
        title=f"What fits in {card.memory / GIB:.1f} GiB, of which {card.share:.0%} may be used (sizes in GiB)"
    )
    for column in ("model", "", "weights", "release", "sequences", "context", "tokens/s"):
        table.add_column(column, justify="left" if column in ("model", "") else "right", no_wrap=True)
    for name, precision, found in rows:
        if isinstance(found, str):
            table.add_row(name, precision, "too large", *["-"] * 4, style="dim")
            continue
        sizes = (f"{size / GIB:.2f}" for size in (found.weight_bytes, found.adapter_bytes))
        counts = (f"{found.sequences}", f"{found.context}", f"< {found.ceiling_tokens_per_s:.1f}")
        table.add_row(name, precision, *sizes, *counts)
    plain_console().print(table)
    say(
        f"Room for at least {chosen.sequences} of these sequences. Tokens/s at batch 1: memory bandwidth over the\n"
        "weights that each token reads. No single stream is faster; several share the reading."
    )


def _card(chosen: argparse.Namespace, config: ServeConfig) -> Card:
    known = CARDS.get(chosen.card or "")
    memory = chosen.memory_gib * GIB if chosen.memory_gib else known.memory if known else None
    bandwidth = chosen.bandwidth_gbs * _GB if chosen.bandwidth_gbs else known.bandwidth if known else None
    if memory is None or bandwidth is None:
        raise ConfigError(
            f"Expected --card NAME ({', '.join(CARDS)}), or both --memory-gib and --bandwidth-gbs, got less. Say what "
            "the model has to fit in."
        )
    return Card(round(memory), bandwidth, config.engine.memory_share)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedbank client serve plan",
        description="What fits in a card, and how fast it can be at best: weights, cache, sequences, the ceiling at "
        "batch 1. Nothing is loaded. With model=... and engine.precision=... one plan, else a table; ends with 2 and "
        "the figures if nothing fits. The engine is vLLM unless engine=... says otherwise.",
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="as of fedbank client serve")
    parser.add_argument("--card", choices=CARDS, help="a known card")
    parser.add_argument("--memory-gib", type=_positive, metavar="N", help="its memory in GiB (2^30 bytes)")
    parser.add_argument("--bandwidth-gbs", type=_positive, metavar="N", help="its memory bandwidth in GB/s (10^9)")
    parser.add_argument("--context", type=_count, metavar="N", help="tokens of question and answer; default: settings")
    parser.add_argument("--sequences", type=_count, default=1, metavar="N", help="at once, at least (default: 1)")
    parser.add_argument(
        "--adapted-share",
        type=_share,
        default=1.0,
        metavar="X",
        help="with engine=transformers: how much of the linear layers a release adapts (default: 1, all)",
    )
    add_json(parser)
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r:.40}")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:10]) <= 10**9:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r:.40}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r:.40}")
    return value
