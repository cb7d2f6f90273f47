"""What the hostile audit attacks: the base model, adapter and data that the settings name."""

from dataclasses import replace

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import initial_state
from fedbank.audit.hostile import Target
from fedbank.audit.separators import Separators
from fedbank.config import SimulateConfig
from fedbank.data.encode import EncodedUnits, Encoder
from fedbank.errors import DataError
from fedbank.model.loading import check_model_source, load_base_model, load_tokenizer
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank.training.engines import check_engine
from fedbank_client.customers import load_units
from fedbank_client.loading import model_spec
from fedbank_client.terms import local_settings, lora_settings

_CLIP_NORM = 0.25
"""A power of two: differences of sums on the grid are then free of rounding. The bound is in clip norms."""
_NOISE, _DELTA = 1.0, 1e-5
"""Of a plan whose noise nobody draws here."""
_LEAST_CUSTOMERS = 20


def open_target(config: SimulateConfig, engine: str | None, others: int) -> Target:
    """The step of a bank with ``others`` customers beside the audited one; directions are learnt on other customers.

    Raises:
        DataError: too few customers for both.
        ModelError: the model cannot be used, or not with ``engine`` (``None``: that of the settings).
    """
    spec = model_spec(config.model)
    check_model_source(spec)
    units = load_units(config.data, seed=config.seed)
    if len(units) < _LEAST_CUSTOMERS:
        raise DataError(f"Expected at least {_LEAST_CUSTOMERS} customers to audit with, got {len(units)}.")
    encoder = Encoder(load_tokenizer(spec), config.model.max_length)
    half = len(units) // 2
    practice, pool = encoder.encode(units[:half]), encoder.encode(units[half:])
    base = load_base_model(spec)
    model = AdaptedModel(base.model, lora_settings(config.adapter, config.aggregation.rule))
    own = local_settings(config.training)
    settings = replace(own, num_steps=1, per_example=engine or own.per_example)
    check_engine(model, settings.per_example)
    plan = PrivacyPlan.with_noise(Sampling(1.0, float(others), _most_records(pool), 1), _NOISE, _CLIP_NORM, _DELTA)
    return Target(
        model=model,
        pool=pool,
        plan=plan,
        clip_norm=_CLIP_NORM,
        settings=settings,
        start=initial_state(model.spec, seed=config.seed),
        direction=Separators(model, practice, base.device),
        device=base.device,
        others=others,
    )


def _most_records(pool: EncodedUnits) -> int:
    return int(pool.records_per_unit().max())
