"""Settings: from ``conf/`` and the command line to checked values.

A configuration holds names and numbers, never code to call.
"""

from fedbank.config.compose import (
    config_dir,
    expand_sweep,
    load_campaign,
    load_client,
    load_serve,
    load_simulate,
    parse_simulate,
    parse_terms,
    to_yaml,
)
from fedbank.config.rules import NAME
from fedbank.config.schema import CampaignConfig, ClientConfig, ServeConfig, SimulateConfig, TermsConfig

__all__ = [
    "NAME",
    "CampaignConfig",
    "ClientConfig",
    "ServeConfig",
    "SimulateConfig",
    "TermsConfig",
    "config_dir",
    "expand_sweep",
    "load_campaign",
    "load_client",
    "load_serve",
    "load_simulate",
    "parse_simulate",
    "parse_terms",
    "to_yaml",
]
