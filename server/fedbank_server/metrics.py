"""The consortium's state as Prometheus metrics (text exposition format)."""

from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from fedbank_server.overview import Overview
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
    epsilon = Gauge("fedbank_bank_epsilon", "Cost of the campaign, as disclosed", ["bank"], registry=registry)
    usual = Gauge("fedbank_bank_round_seconds", "Usual time of a round", ["bank"], registry=registry)
    for bank in overview.banks:
        for state in BankState:
            states.labels(bank.bank, state.value).set(bank.state == state.value)
        if bank.epsilon is not None:
            epsilon.labels(bank.bank).set(bank.epsilon)
        if bank.usual_s is not None:
            usual.labels(bank.bank).set(bank.usual_s)
    if overview.rounds:
        last = overview.rounds[-1]
        gauge("last_round_seconds", "Time of the last committed round", last.seconds)
        gauge("last_round_updates", "Updates in it", last.accepted)
        gauge("last_round_timestamp_seconds", "When", datetime.fromisoformat(last.committed).timestamp())
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4
