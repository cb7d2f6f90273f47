"""The gradient audit on the base model and data that the settings name."""

from dataclasses import replace

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import initial_state
from fedbank.audit.finding import Finding
from fedbank.audit.gradient import TrainingRun, audit_gradient
from fedbank.config import SimulateConfig
from fedbank.data.encode import Encoder
from fedbank.model.loading import check_model_source, load_base_model, load_tokenizer
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan
from fedbank_client.customers import load_units
from fedbank_client.loading import model_spec
from fedbank_client.terms import local_settings, lora_settings


def audit_training(
    config: SimulateConfig, plan: PrivacyPlan, canaries: int, customers: int, confidence: float
) -> Finding:
    """Train the plan's steps on the first ``customers`` of the data, with ``canaries`` in or out by secure coins."""
    check_model_source(model_spec(config.model))
    encoder = Encoder(load_tokenizer(model_spec(config.model)), config.model.max_length)
    data = encoder.encode(load_units(config.data, seed=config.seed)[:customers])
    base = load_base_model(model_spec(config.model))
    model = AdaptedModel(base.model, lora_settings(config.adapter, config.aggregation.rule))
    start = initial_state(model.spec, seed=config.seed)
    settings = replace(local_settings(config.training), num_steps=plan.sampling.num_steps)
    run = TrainingRun(model, data, settings, start, base.device)
    return audit_gradient(run, plan, canaries=canaries, confidence=confidence, stream=RandomStream.secure())
