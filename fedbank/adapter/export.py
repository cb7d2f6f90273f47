"""The adapter as a folder that PEFT loads. No torch: the coordinator writes it too."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbank.adapter.state import AdapterSpec, Tensors, to_bytes
from fedbank.durable import write_atomic


def save_adapter(folder: Path, spec: AdapterSpec, tensors: Tensors, *, base_reference: str, card: str) -> None:
    """Write a folder that ``peft.PeftModel.from_pretrained(base, folder)`` loads, with its model card."""
    config: Mapping[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_reference,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "target_modules": list(spec.target_modules),
        "layers_to_transform": spec.layers(),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_atomic(folder / "adapter_model.safetensors", to_bytes(tensors, {"kind": "adapter"}))
    write_atomic(folder / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True).encode())
    write_atomic(folder / "README.md", card.encode())
