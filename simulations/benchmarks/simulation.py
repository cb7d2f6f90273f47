"""The inline back end against Flower's engine in its usual form, and against no federation at all.

Same banks, same data, same steps on both sides; start-up and the first round never count. Two kinds of rounds:
``light`` (1 step of 8 customers: little else than what an engine costs) and ``demo`` (5 steps of 32: the default).

``ratio_flower_engine``: rounds per second of the inline back end over those of Flower's Ray engine, used as Flower's
own Hugging Face quickstart uses it: default resources (2 CPUs a client), and a client app that in every call loads
tokenizer and base model, attaches the adapter and tokenises its partition; the raw data stay in memory.
``ratio_flower_model_only``: the same, but only the model is loaded in every call. ``ratio_flower_tuned``: that with
1 CPU a client, so that banks run side by side.
``ratio_no_federation``: speed of the inline back end over that of a plain loop that trains the same banks one after
the other, without messages, ledger, aggregation or files. Every side has all threads of the machine, used in its
own way: by the inline back end for banks side by side, by the loop and Flower's actors within a bank's arithmetic.
"""

import statistics
import time

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.supercore.constant import DEFAULT_SIMULATION_CONFIG

from fedbank.privacy.noise import RandomStream
from fedbank.training.local import train_round
from fedbank_client.terms import local_settings
from fedbank_simulations.campaigns import FEDERATED
from fedbank_simulations.federation import first_state
from fedbank_simulations.ray_engine import run_ray
from fedbank_simulations.resident import resident
from simulations.benchmarks.harness import publish, settings_for, timed_campaign
from simulations.benchmarks.usual_form import FreshModelBank, UsualBank

BANKS = 8
WORK = {"light": (10, 1, 8, 9), "demo": (3, 5, 32, 3)}
"""Kinds of rounds: how many, local steps, expected customers a step; pairs of inline and loop (light is short)."""


def plain_loop(settings: str) -> float:
    """Seconds per round of training the same banks in a loop, each from its own last adapter."""
    home = resident(settings)
    members = home.members(FEDERATED)
    adapters = {name: dict(first_state(home).adapter) for name in members}
    ends = []
    for number in range(1, home.config.training.rounds + 1):
        for name, member in members.items():
            stream = RandomStream.derived(0, FEDERATED, name, number)
            change = train_round(
                home.model,
                member.data,
                member.plan,
                local_settings(home.config.training),
                adapters[name],
                stream=stream,
                device=home.base.device,
            )
            for tensor, value in change.items():
                adapters[name][tensor] = adapters[name][tensor] + value
        ends.append(time.perf_counter())
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def flower(settings: str, open_bank: type[FreshModelBank], cpus_per_bank: float) -> float:
    """Seconds per round on Flower's engine."""

    def engine(server: ServerApp, client: ClientApp, nodes: int) -> None:
        run_ray(server, client, nodes, address=None, cpus_per_bank=cpus_per_bank, gpus_per_bank=0.0)

    return timed_campaign(settings, open_bank, engine)


def measure(work: str) -> dict[str, object]:
    """All ratios for one kind of round; in turn, so that a busy moment of the machine falls on both sides."""
    rounds, steps, batch, pairs = WORK[work]
    settings = settings_for(
        [
            f"banks={BANKS}",
            "data.customers=2000",
            f"training.rounds={rounds}",
            f"training.local_steps={steps}",
            f"training.expected_batch={batch}",
        ]
    )
    inline, loop = [], []
    for _ in range(pairs):
        inline.append(timed_campaign(settings))
        loop.append(plain_loop(settings))
    usual = flower(settings, UsualBank, DEFAULT_SIMULATION_CONFIG.client_resources_num_cpus)
    inline.append(timed_campaign(settings))
    model_only = flower(settings, FreshModelBank, DEFAULT_SIMULATION_CONFIG.client_resources_num_cpus)
    inline.append(timed_campaign(settings))
    tuned = flower(settings, FreshModelBank, 1.0)
    middle = statistics.median(inline)
    return {
        "work": work,
        "banks": BANKS,
        "local_steps": steps,
        "expected_batch": batch,
        "ratio_flower_engine": round(usual / middle, 2),
        "ratio_flower_model_only": round(model_only / middle, 2),
        "ratio_flower_tuned": round(tuned / middle, 2),
        "ratio_no_federation": round(statistics.median(b / a for a, b in zip(inline, loop, strict=False)), 3),
        "flower_engine_s_per_round": round(usual, 4),
        "inline_s_per_round": [round(value, 4) for value in inline],
        "plain_loop_s_per_round": [round(value, 4) for value in loop],
    }


if __name__ == "__main__":
    publish("simulation", (measure(work) for work in WORK))
