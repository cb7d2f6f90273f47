"""What the terms of a campaign mean for one bank: its plan, its adapter, its local training."""

from fedbank.adapter.lora import LoraSettings
from fedbank.aggregation.rules import RULES
from fedbank.config.schema import AdapterConfig, PrivacyConfig, TrainingConfig
from fedbank.consent import agreed_sampling
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.plan import PrivacyPlan, TrainingPlan, UnprotectedPlan
from fedbank.training.local import LocalSettings


def units_of(data: EncodedUnits, unit: str) -> EncodedUnits:
    """The data in the units that the plan protects: customers, or single records."""
    return data.by_record() if unit == "record" else data


def training_plan(
    privacy: PrivacyConfig, training: TrainingConfig, units: int, *, batch: int | None = None, protected: bool = True
) -> TrainingPlan:
    """The plan of a bank with ``units`` (customers, or records) for the whole campaign, from the target epsilon.

    Simulations compare: with another expected ``batch`` than the terms', or without protection.
    """
    sampling = agreed_sampling(training, units, batch)
    if not (privacy.enabled and protected):
        return UnprotectedPlan(sampling)
    if privacy.epsilon is None or privacy.clip_norm is None:
        raise ValueError("privacy is on without epsilon or clip_norm; fedbank.config refuses this")
    return PrivacyPlan.calibrate(privacy.epsilon, privacy.delta, sampling, privacy.clip_norm, units, privacy.unit)


def local_settings(training: TrainingConfig) -> LocalSettings:
    """How every bank trains within a round."""
    return LocalSettings(
        training.local_steps,
        training.learning_rate,
        training.optimizer,
        training.momentum,
        training.micro_batch,
        training.per_example,
    )


def lora_settings(adapter: AdapterConfig, rule: str) -> LoraSettings:
    """The adapter that the aggregation ``rule`` asks for."""
    return LoraSettings(
        adapter.rank,
        adapter.alpha,
        tuple(adapter.target_modules),
        trainable=RULES[rule],
        last_layers=adapter.last_layers,
        dropout=adapter.dropout,
    )
