"""The inline back end against Flower's engine in its usual form, and against no federation at all.

Same banks, same data, same steps. ``ratio_flower_engine``: rounds per second of the inline back end over those of
Flower's Ray engine whose client app loads the base model in every call (its data stay loaded, which flatters it).
``ratio_no_federation``: speed of the inline back end over that of a plain loop that trains the same banks one after
the other, without messages, ledger, aggregation or files. Start-up and the first round do not count.
"""

import statistics
import time
from pathlib import Path

import torch
from flwr.app import Context

from fedbank.adapter.lora import AdaptedModel
from fedbank.model.loading import load_base_model
from fedbank.privacy.noise import RandomStream
from fedbank.training.local import train_round
from fedbank_client.bank import Bank, Participation
from fedbank_simulations.campaigns import FEDERATED, local_settings, lora_settings
from fedbank_simulations.federation import first_state
from fedbank_simulations.inline import PARTITION_ID
from fedbank_simulations.ray_engine import run_ray
from fedbank_simulations.resident import model_spec, resident
from simulations.benchmarks.harness import publish, settings_for, timed_campaign

BANKS, ROUNDS, REPEATS = 8, 6, 3
SETTINGS = [
    f"banks={BANKS}",
    "data.customers=2000",
    f"training.rounds={ROUNDS}",
    "training.local_steps=1",
    "training.expected_batch=16",
]


class FreshModelBank:
    """Flower's usual form: every call loads the base model, attaches the adapter, trains, and forgets both."""

    def __init__(self, settings: str, folder: str) -> None:
        self._settings, self._folder = settings, folder

    def __call__(self, context: Context) -> Bank:
        """The bank of the node, with a model of its own."""
        home = resident(self._settings)
        members = home.members(FEDERATED)
        name = sorted(members)[int(context.node_config[PARTITION_ID])]
        base = load_base_model(model_spec(home.config))
        return Bank(
            name,
            Participation(FEDERATED, members[name].plan, local_settings(home.config)),
            members[name].data,
            AdaptedModel(base.model, lora_settings(home.config)),
            Path(self._folder) / "banks" / name,
            stream_for_round=lambda number: RandomStream.derived(0, name, number),
            device=base.device,
        )


def plain_loop(settings: str) -> float:
    """Seconds per round of training the same banks in a loop, each from its own last adapter."""
    home = resident(settings)
    members = home.members(FEDERATED)
    adapters = {name: dict(first_state(home).adapter) for name in members}
    ends = []
    for number in range(1, ROUNDS + 1):
        for name, member in members.items():
            stream = RandomStream.derived(0, FEDERATED, name, number)
            change = train_round(
                home.model,
                member.data,
                member.plan,
                local_settings(home.config),
                adapters[name],
                stream=stream,
                device=home.base.device,
            )
            for tensor, value in change.items():
                adapters[name][tensor] = adapters[name][tensor] + value
        ends.append(time.perf_counter())
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def main() -> None:
    """Measure in turn, so that a busy moment of the machine falls on both sides of a ratio."""
    settings = settings_for(SETTINGS)
    inline, loop = [], []
    for _ in range(REPEATS):
        inline.append(timed_campaign(settings))
        loop.append(plain_loop(settings))
    flower = timed_campaign(
        settings,
        FreshModelBank,
        lambda server, client, nodes: run_ray(
            server, client, nodes, address=None, cpus_per_bank=1.0, gpus_per_bank=0.0
        ),
    )
    best = min(inline)
    line = {
        "banks": BANKS,
        "rounds": ROUNDS,
        "inline_s_per_round": round(best, 4),
        "plain_loop_s_per_round": round(min(loop), 4),
        "flower_engine_s_per_round": round(flower, 4),
        "ratio_flower_engine": round(flower / statistics.median(inline), 2),
        "ratio_no_federation": round(statistics.median(b / a for a, b in zip(inline, loop, strict=True)), 3),
        "spread_inline": [round(value, 4) for value in sorted(inline)],
    }
    publish("simulation", [line])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
