"""A release's folder from an adapter that a campaign made: weights, manifest, configuration and a card for people."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

from fedbank import __version__
from fedbank.durable import write_atomic
from fedbank.release.contents import CARD, CONFIG, MANIFEST, WEIGHTS
from fedbank.release.errors import ReleaseError
from fedbank.release.inspection import adapter_config, inspect
from fedbank.release.manifest import MAX_MANIFEST_BYTES, Manifest, decimal_text
from fedbank.release.tensors import written

ACCOUNTANT = "dp_accounting PLD"


@dataclass(frozen=True, slots=True)
class Scores:
    """What ``fedbank evaluate`` found: SHA-256 of the suite's file, its records, scores by name of base and adapter."""

    suite: str
    records: int
    base: Mapping[str, float]
    adapter: Mapping[str, float]

    @classmethod
    def from_json(cls, content: bytes) -> "Scores":
        """From the command's ``--json``; ``ReleaseError`` for anything else.

        The command is this machine's own and its scores may be no numbers: the strict reader would refuse those.
        """
        try:
            said = json.loads(content) if len(content) <= MAX_MANIFEST_BYTES else {}
            found = cls(said["suite"], said["records"], said["base"], said["adapter"])
            if type(found.records) is not int or not isinstance(found.suite, str):
                raise TypeError("other types")
            for scores in (found.base, found.adapter):
                dict(zip(scores, map(float, scores.values()), strict=True))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ReleaseError("evaluation", "Expected what fedbank evaluate --json printed, got another.") from error
        return found

    def fields(self) -> dict[str, Any]:
        """As the manifest has them."""
        parts = {"base": self.base, "adapter": self.adapter}
        texts = {part: {name: decimal_text(value) for name, value in scores.items()} for part, scores in parts.items()}
        return {"suite": self.suite, "records": self.records, **texts}


def adapter_fields(weights: bytes, shapes: Mapping[str, tuple[int, ...]], about: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's section on an fp32 adapter whose safetensors file is ``weights``; ``about``: the rest of it."""
    start = 8 + int.from_bytes(weights[:8], "little")
    values = np.frombuffer(weights[start:], "<f4").astype(np.float64)
    norm = float(np.sqrt(np.dot(values, values)))
    tensors = written(shapes, about["layers"])
    return {**about, "dtype": "F32", "tensors": tensors, "norm": decimal_text(float(f"{norm:.9g}"))}


def environment_digest() -> str:
    """SHA-256 over the names and versions of everything that is installed here."""
    found = sorted({f"{item.metadata['Name'].lower()}=={item.version}" for item in distributions()})
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def code_version() -> str:
    """The version of FedBank that made a release."""
    return __version__


def write_release(folder: Path, manifest: Manifest, weights: bytes) -> None:
    """The four files; checked as every member will check them.

    Raises:
        ReleaseError: they would be refused.
    """
    write_atomic(folder / WEIGHTS, weights)
    write_atomic(folder / MANIFEST, manifest.to_bytes())
    write_atomic(folder / CONFIG, adapter_config(manifest))
    write_atomic(folder / CARD, model_card(manifest).encode())
    inspect(folder)


def release_name(campaign: str, adapter_digest: str, now: datetime) -> str:
    """Campaign, day and the beginning of the adapter's digest."""
    plain = "".join(char if char.isalnum() and char.isascii() else "-" for char in campaign.lower()).strip("-")
    return f"{plain[:60].strip('-')}-{now:%Y%m%d}-{adapter_digest[:8]}"


def model_card(manifest: Manifest) -> str:
    """What a person reads of a release, all of it from the manifest."""
    base, training, scores = manifest.base, manifest.training, manifest.evaluation
    names = sorted(scores["adapter"])
    rows = "\n".join(f"| {name} | {scores['base'].get(name, '')} | {scores['adapter'][name]} |" for name in names)
    return f"""---
base_model: {json.dumps(base["name"])}
library_name: peft
license: {json.dumps(manifest.licence)}
tags: [lora, federated-learning, differential-privacy]
---
# {manifest.release}

A LoRA adapter (rank {manifest.adapter["rank"]}) for {base["name"]}, trained by {training["participants"]} banks in
{training["rounds"]} rounds of the campaign {training["campaign"]} ({training["rule"]}).

## Before you serve it

Verify it: `fedbank verify DIR --root ROOT`. It belongs to the base model with the SHA-256 `{base["digest"]}` and to no
other. It replaces {manifest.parent or "nothing: it is the first"}.

## Scores on the public suite

{scores["records"]} records, SHA-256 `{scores["suite"]}`.

| | base | adapter |
|---|---|---|
{rows}

## Privacy

Unit: {manifest.privacy["unit"]}. Accountant: {manifest.privacy["accountant"]}. Noise: {manifest.privacy["mode"]}, every
bank's own. What each bank says that its customers have spent in this campaign:

| bank | epsilon | delta | noise multiplier | clip norm | sampling | steps |
|---|---|---|---|---|---|---|
{_privacy_rows(manifest.privacy["banks"])}

It is a promise about training. What the adapter answers still has to be checked before a customer sees it.

## Origin

Made {manifest.created} with FedBank {training["code"]}. Data card: {manifest.data_card}. Licence: {manifest.licence}.
"""


def _privacy_rows(banks: Mapping[str, Any]) -> str:
    rows = []
    for bank, spent in sorted(banks.items()):
        if spent is None:
            rows.append(f"| {bank} | NONE: trained without privacy | | | | | |")
            continue
        order = ("epsilon", "delta", "noise_multiplier", "clip_norm", "sampling_prob", "steps")
        rows.append(f"| {bank} | " + " | ".join(spent[name] for name in order) + " |")
    return "\n".join(rows)
