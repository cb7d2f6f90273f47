"""A finished run's folder with known figures, as a simulation leaves it, for the tests of the reports."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

HOSTILE = '<script>alert("1")</script> 我的信用卡年费 $5$ & 利息?'
BANKS = {"bank-1": 0.70, "bank-2": 0.35, "银行-3": 0.10}
# Condition → (loss, exact match) at the end of training.
FINAL = {
    "base": (1.8312, 0.3104),
    "local_only": (1.2406, 0.4521),
    "federated": (0.9437, 0.6127),
    "federated_nonprivate": (0.8015, 0.6889),
    "centralized": (0.7718, 0.7034),
}
ROUNDS = 6


def scores(nll: float, exact_match: float, n: int = 480) -> dict[str, Any]:
    return {"nll": nll, "exact_match": exact_match, "n": n}


def settings(seed: int, rule: str, epsilon: float | None, output: Path) -> dict[str, Any]:
    privacy = {"enabled": epsilon is not None, "epsilon": epsilon or 8.0, "clip_norm": 0.5}
    return {
        "seed": seed,
        "banks": len(BANKS),
        "output": str(output),
        "data": {"name": "banking77"},
        "partition": {"kind": "dirichlet", "alpha": 0.5},
        "model": {"name": "qwen2_5_0_5b", "path": None, "identifier": "Qwen/Qwen2.5-0.5B-Instruct"},
        "adapter": {"r": 8},
        "privacy": privacy,
        "training": {"rounds": ROUNDS, "local_steps": 5},
        "aggregation": {"rule": rule, "server_step": "mean"},
        "simulation": {"backend": "processes"},
    }


def curve(condition: str, final: tuple[float, float], epsilon: float | None = None, shift: float = 0.0) -> str:
    """The lines of a rounds.jsonl that goes from the base model to ``final``."""
    lines = []
    for number in range(ROUNDS + 1):
        done = 1 - 0.5 ** (2 * number / ROUNDS) if number < ROUNDS else 1.0
        nll, exact = (base + (end + shift - base) * done for base, end in zip(FINAL["base"], final, strict=True))
        spent = dict.fromkeys(BANKS, epsilon * (number / ROUNDS) ** 0.5) if epsilon and number else {}
        lines.append(
            {
                "round": number,
                "steps": 5 * number,
                "seconds": 3.25,
                "bytes_up": 1_310_720 * bool(number),
                "bytes_down": 2_621_440 * bool(number),
                "update_norm": 0.5 / (number + 1),
                "adapter_sha256": f"{number:02x}" * 32,
                "evaluation": scores(nll, exact, 160),
                "public_evaluation": scores(nll + 0.1, exact, 64) if condition == "federated" else None,
                "epsilon": spent,
            }
        )
    return "".join(json.dumps(line) + "\n" for line in lines)


def results(private: bool, epsilon: float | None, final: tuple[float, float]) -> dict[str, Any]:
    promise = f"Neighbouring logs differ in one customer: epsilon {epsilon} at delta 1e-05." if private else ""
    plan = {
        "epsilon": epsilon if private else None,
        "delta": 1e-5 if private else None,
        "unit": "customer",
        "noise_multiplier": 1.137 if private else None,
        "sampling_prob": 0.0625 if private else None,
        "steps": 30,
        "clip_norm": 0.5 if private else None,
        "guarantee": promise,
    }
    ends = FINAL | {"federated": final}
    keys = {"cards/zh": 0.4, "cards/en": 0.2, "loans/zh": 0.3, "fees & <b>": 0.1}
    return {
        "banks": {
            bank: {
                "customers": 1840,
                "records": 5213,
                "held_out_customers": 204,
                "languages": {"zh": share, "en": 1 - share},
                "keys": keys,
            }
            for bank, share in BANKS.items()
        },
        "rounds": ROUNDS,
        "privacy": dict.fromkeys(BANKS, plan),
        "evaluation": {name: scores(*end) for name, end in ends.items()},
        "per_bank": {bank: {name: scores(end[0], end[1], 160) for name, end in ends.items()} for bank in BANKS},
        "examples": [
            {
                "bank": "bank-1",
                "question": HOSTILE,
                "reference": "年费可减免",
                "before": "<img src=http://evil.example/x>",
                "after": "年费可减免 ",
            }
        ],
        "bytes_up": 23_592_960,
        "bytes_down": 47_185_920,
        "seconds": 4207.0,
        "peak_rss_bytes": 6_200_000_000,
        "versions": {"torch": "2.13.0", "python": "3.11.7"},
        "private": private,
    }


def write_run(
    folder: Path,
    *,
    seed: int = 1,
    rule: str = "fedsvd",
    epsilon: float | None = 3.97,
    final: tuple[float, float] = FINAL["federated"],
    comparisons: bool = True,
) -> Path:
    """A finished run as a simulation leaves it; ``epsilon=None`` turns privacy off."""
    files = {
        "config.yaml": yaml.safe_dump(settings(seed, rule, epsilon, folder)),
        "results.json": json.dumps(results(epsilon is not None, epsilon, final)),
        "rounds.jsonl": curve("federated", final, epsilon),
    }
    if comparisons:
        for name in ("federated_nonprivate", "centralized"):
            files[f"comparisons/{name}/rounds.jsonl"] = curve(name, FINAL[name])
        for index, bank in enumerate(BANKS):
            alone = curve("local_only", FINAL["local_only"], shift=0.05 * (index - 1))
            files[f"comparisons/local_only/{bank}/rounds.jsonl"] = alone
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def edit_results(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Let ``change`` alter the parsed ``results.json`` of ``folder``."""
    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    change(document)
    (folder / "results.json").write_text(json.dumps(document), encoding="utf-8")
