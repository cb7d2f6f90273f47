"""The consortium's state as Prometheus metrics (text exposition format)."""

from collections.abc import Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from fedbank_server.overview import TRAINING, Overview
from fedbank_server.snapshot import BankState


def exposition(overview: Overview) -> tuple[bytes, str]:
    """The metrics and their content type. Of a bank: its name, its state, and what it disclosed."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(f"fedbank_{name}", text, registry=registry).set(value)

    active = [bank for bank in overview.banks if bank.revoked is None]
    gauge("members", "Banks that are members", len(active))
    gauge("status_readable", "0 if a file of the campaign cannot be read", not overview.problem)
    campaign = overview.campaign
    if campaign is not None:
        gauge("campaign_rounds", "Rounds of the campaign", campaign.num_rounds)
        gauge("campaign_rounds_committed", "Rounds committed", campaign.committed)
        gauge("campaign_attempt", "Attempt of the round at work", campaign.attempt)
        gauge("campaign_paused", "1 if a person has to act", campaign.phase == "paused")
        gauge("campaign_quorum", "Updates that a round needs", campaign.needed)
        if campaign.deadline:
            deadline = datetime.fromisoformat(campaign.deadline).timestamp()
            gauge("round_deadline_timestamp_seconds", "When the round ends at the latest", deadline)
    states = Gauge("fedbank_bank_state", "1 for the state that a bank is in", ["bank", "state"], registry=registry)
    for bank in overview.banks:
        for state in BankState:
            shown = TRAINING if state is BankState.ASKED else state.value
            states.labels(bank.bank, shown).set(bank.state == shown)
    _of_banks(overview, registry)
    if overview.rounds:
        last = overview.rounds[-1]
        gauge("last_round_seconds", "Time of the last committed round", last.seconds)
        gauge("last_round_updates", "Updates in it", last.accepted)
        gauge("last_round_timestamp_seconds", "When", datetime.fromisoformat(last.committed).timestamp())
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def _of_banks(overview: Overview, registry: CollectorRegistry) -> None:
    """One value a bank, of those that have it."""
    progress = {bank.bank: bank.expected for bank in overview.banks if bank.expected is not None}
    ends = {bank: datetime.fromisoformat(expected.end).timestamp() for bank, expected in progress.items()}
    found: dict[tuple[str, str], Mapping[str, float | None]] = {
        ("epsilon", "Cost of the campaign that was agreed to"): {b.bank: b.epsilon for b in overview.banks},
        ("epsilon_spent", "Spent in the campaign, as disclosed"): {b.bank: b.epsilon_spent for b in overview.banks},
        ("epsilon_total", "Spent in all campaigns, as disclosed"): {b.bank: b.epsilon_total for b in overview.banks},
        ("round_seconds", "Usual time of a round"): {b.bank: b.usual_s for b in overview.banks},
        ("expected_step", "Step at which it should be"): {bank: value.step for bank, value in progress.items()},
        ("expected_steps", "Steps of its round"): {bank: value.num_steps for bank, value in progress.items()},
        ("expected_end_timestamp_seconds", "When its update should be here"): ends,
    }
    for (name, text), values in found.items():
        gauge = Gauge(f"fedbank_bank_{name}", text, ["bank"], registry=registry)
        for bank, value in values.items():
            if value is not None:
                gauge.labels(bank).set(value)
