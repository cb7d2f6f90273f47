"""``fedbank audit hostile`` on both engines, one to four threads, the tiny model and two layers of random weights.

One line per case: ``worst_change`` in clip norms (at most 1), ``others_moved`` (0: no bit of another customer's share
changed). ``--adapters N`` and ``--others U`` size it.
"""

import shutil
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from fedbank.audit.hostile import search
from fedbank.config import load_simulate
from fedbank.model.folder import tiny_folder
from fedbank.training.engines import ENGINES
from fedbank_simulations.audit.target import open_target
from simulations.benchmarks.reporting import argument_parser, write_lines

THREADS = (1, 2, 3, 4)
RULES = {"B": "fedsvd", "AB": "fedavg"}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_SHARED = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
_CUSTOMERS, _SECONDS = 200, 600.0


def random_model(kind: str, folder: Path) -> Path:
    """Two layers of a ``"qwen2"`` or ``"qwen3"`` in a folder, random weights, the tiny model's sizes and tokenizer."""
    tiny = AutoConfig.from_pretrained(tiny_folder())
    sizes = {name: getattr(tiny, name) for name in (*_SHARED, "pad_token_id", "eos_token_id")}
    common = {**sizes, "num_hidden_layers": 2, "initializer_range": 0.1}
    torch.manual_seed(0)
    model: Any = Qwen2ForCausalLM(Qwen2Config(**common)) if kind == "qwen2" else Qwen3ForCausalLM(Qwen3Config(**common))
    model.save_pretrained(folder)
    for name in _TOKENIZER:
        if (tiny_folder() / name).is_file():
            shutil.copyfile(tiny_folder() / name, folder / name)
    return folder


def lines(adapters: int, others: int) -> Iterator[dict[str, Any]]:
    """All cases."""
    with tempfile.TemporaryDirectory() as place:
        models = {"tiny": ["model=tiny"]}
        for kind in ("qwen2", "qwen3"):
            models[kind] = ["model=path", f"model.path={random_model(kind, Path(place) / kind)}"]
        for (name, words), trained, engine, threads in product(models.items(), RULES, ENGINES, THREADS):
            torch.set_num_threads(threads)
            config = load_simulate([*words, f"data.customers={_CUSTOMERS}", f"aggregation={RULES[trained]}"])
            found = search(open_target(config, engine, others), adapters=adapters, seconds=_SECONDS, seed=threads)
            yield {
                "model": name,
                "trainable": trained,
                "engine": engine,
                "threads": threads,
                "adapters_tried": found.adapters_tried,
                "worst_change": found.worst_change,
                "others_moved": found.others_moved,
                "ok": found.ok,
            }


if __name__ == "__main__":
    parser = argument_parser("hostile")
    parser.add_argument("--adapters", type=int, default=14)
    parser.add_argument("--others", type=int, default=16)
    chosen = parser.parse_args()
    write_lines("hostile", lines(chosen.adapters, chosen.others), as_json=chosen.json)
