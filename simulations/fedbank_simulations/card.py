"""The model card that lies beside the adapter: base, data, privacy, scores."""

from typing import Any

from fedbank.config import SimulateConfig

_LABELS = {
    "base": "base model, no adapter",
    "local_only": "each bank alone, same privacy",
    "federated": "**this adapter**",
    "federated_nonprivate": "federated without privacy",
    "centralized": "all customers in one place, same privacy",
}


def format_nll(nll: float | None) -> str:
    """Four decimals, or a word where training diverged."""
    return "diverged" if nll is None else f"{nll:.4f}"


def model_card(config: SimulateConfig, base_reference: str, results: dict[str, Any]) -> str:
    """A Hugging Face model card (YAML front matter and Markdown)."""
    banks = results["banks"]
    customers = sum(bank["customers"] for bank in banks.values())
    promise = "\n".join(f"- {name}: {values['guarantee']}" for name, values in results["privacy"].items())
    scores = "\n".join(
        f"| {_LABELS[name]} | {format_nll(values['nll'])} | {100 * values['exact_match']:.1f} % | {values['n']} |"
        for name, values in results["evaluation"].items()
        if values is not None
    )
    warning = (
        ""
        if results["private"]
        else "\n> **No privacy.** This adapter can reveal customers' records. Do not publish it.\n"
    )
    return f"""---
base_model: {base_reference}
library_name: peft
license: apache-2.0
tags: [lora, federated-learning{", differential-privacy" if results["private"] else ""}]
---
# LoRA adapter for bank customer inquiries
{warning}
Trained by a simulated consortium of {len(banks)} banks with {customers} customers over {results["rounds"]} rounds
({config.aggregation.rule}, rank {config.adapter.rank}, modules {", ".join(config.adapter.target_modules)}).

- Base model: `{base_reference}`{f" at revision `{config.model.revision}`" if config.model.revision else ""}
- Data: `{config.data.name}`, divided by `{config.partition.kind}`, seed {config.seed}
- Adapter SHA-256 (tensors): `{results["adapter_sha256"]}`

## Privacy

{promise}

This is a simulation: its noise comes from a seed, so the guarantee is that of a deployment with the same plan,
not of this file. It is about training: what a server of this adapter logs, caches or repeats from a customer's own
session is not covered.

## Scores on held-out customers

| | nll (nats per answer token) | exact match | records |
|---|---|---|---|
{scores}

## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE_MODEL), ADAPTER_FOLDER)
```
"""
