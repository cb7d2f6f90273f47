"""What a run found out: ``results.json``, the adapter with its model card, example answers."""

import json
import platform
import resource
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fedbank.adapter.export import save_adapter
from fedbank.adapter.state import Tensors
from fedbank.aggregation.rounds import GlobalState
from fedbank.data.encode import Encoder
from fedbank.durable import write_atomic
from fedbank.privacy.plan import PrivacyPlan
from fedbank.training.evaluate import Evaluation
from fedbank_simulations.campaigns import CENTRALIZED, FEDERATED, LOCAL, NONPRIVATE
from fedbank_simulations.card import model_card
from fedbank_simulations.federation import campaign_folder, first_state
from fedbank_simulations.folder import RESULTS
from fedbank_simulations.recorder import merge, read_rounds, score_banks
from fedbank_simulations.resident import Resident
from fedbank_simulations.strict_json import to_json

_VERSIONED = ("fedbank", "flwr", "torch", "transformers", "peft", "dp-accounting", "numpy")
_MAX_NEW_TOKENS = 48
_CONDITIONS = ("base", LOCAL, FEDERATED, NONPRIVATE, CENTRALIZED)


def write_results(home: Resident, output: Path, states: dict[str, GlobalState], seconds: float) -> dict[str, Any]:
    """Score all campaigns' final adapters and write ``results.json`` and ``adapter/``; returns the results."""
    scores = {name: score_banks(home, name, state.adapter, monitored=False) for name, state in states.items()}
    base_adapter = first_state(home).adapter
    scores["base"] = score_banks(home, FEDERATED, base_adapter, monitored=False)
    local = {
        bank: part for name, parts in scores.items() if name.startswith(f"{LOCAL}/") for bank, part in parts.items()
    }
    if local:
        scores[LOCAL] = local
    final = states[FEDERATED].adapter
    results: dict[str, Any] = {
        "banks": {name: asdict(bank.facts) for name, bank in home.scenario.banks.items()},
        "rounds": states[FEDERATED].round,
        "private": home.config.privacy.enabled,
        "privacy": {name: _privacy(home, name) for name in home.members(FEDERATED)},
        "evaluation": {
            name: asdict(merge(list(scores[name].values()))) if name in scores else None for name in _CONDITIONS
        },
        "per_bank": {name: _per_bank(name, scores) for name in home.scenario.banks},
        "examples": _examples(home, base_adapter, final),
        **_traffic(output),
        "seconds": round(seconds, 2),
        "peak_rss_bytes": _peak_rss_bytes(),
        "adapter_sha256": states[FEDERATED].digest(),
        "versions": {name: version(name) for name in _VERSIONED} | {"python": platform.python_version()},
    }
    card = model_card(home.config, home.base.reference, results)
    save_adapter(output / "adapter", home.model.spec, final, base_reference=home.base.reference, card=card)
    written = to_json(results, indent=2)
    write_atomic(output / RESULTS, written.encode())
    strict: dict[str, Any] = json.loads(written)
    return strict


def _privacy(home: Resident, name: str) -> dict[str, Any]:
    plan = home.members(FEDERATED)[name].plan
    common = {
        "sampling_prob": plan.sampling.sampling_prob,
        "expected_batch_size": plan.sampling.expected_batch_size,
        "steps": plan.sampling.num_steps,
        "guarantee": plan.guarantee(),
    }
    if not isinstance(plan, PrivacyPlan):
        return {"epsilon": None, "delta": None, "unit": "none", "noise_multiplier": 0.0, "clip_norm": None, **common}
    return {
        "epsilon": plan.epsilon(),
        "delta": plan.delta,
        "unit": plan.unit,
        "noise_multiplier": plan.noise_multiplier,
        "clip_norm": plan.clip_norm,
        **common,
    }


def _per_bank(bank: str, scores: dict[str, dict[str, Evaluation]]) -> dict[str, Any]:
    return {name: asdict(scores[name][bank]) for name in _CONDITIONS if name in scores and bank in scores[name]}


def _examples(home: Resident, base: Tensors, final: Tensors) -> list[dict[str, str]]:
    """A few held-out questions with the standard answer and what the model says before and after."""
    asked = [(name, inquiry) for name, bank in home.scenario.banks.items() for inquiry in bank.examples]
    encoder = Encoder(home.tokenizer, home.config.model.max_length)
    answers = {}
    for moment, adapter in (("before", base), ("after", final)):
        home.model.write(adapter)
        answers[moment] = [_answer(home, encoder.prompt(inquiry.question, inquiry.answer)) for _, inquiry in asked]
    return [
        {"bank": name, "question": inquiry.question, "reference": inquiry.answer, "before": before, "after": after}
        for (name, inquiry), before, after in zip(asked, answers["before"], answers["after"], strict=True)
    ]


@torch.no_grad()
def _answer(home: Resident, prompt: list[int]) -> str:
    tokens = torch.tensor([prompt], device=home.base.device)
    tokenizer = home.tokenizer
    written = home.model.peft_model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=_MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )
    return str(tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True))


def _traffic(output: Path) -> dict[str, int]:
    """Payload bytes of the federated campaign."""
    lines = read_rounds(campaign_folder(output, FEDERATED) / "rounds.jsonl")
    return {key: sum(int(line[key]) for line in lines) for key in ("bytes_up", "bytes_down")}


def _peak_rss_bytes() -> int:
    """Of this process and its finished children together."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return unit * sum(resource.getrusage(each).ru_maxrss for each in who)
