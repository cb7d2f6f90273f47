"""From ``conf/`` and the command line to checked settings. The only user of Hydra and OmegaConf."""

import difflib
import itertools
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedbank.config.rules import PATHS, check
from fedbank.config.schema import CampaignConfig, ClientConfig, ServeConfig, SimulateConfig, TermsConfig
from fedbank.errors import ConfigError

_Settings = TypeVar("_Settings")
_COMMANDS: dict[type[Any], tuple[str, str]] = {
    SimulateConfig: ("simulate", "fedbank simulate"),
    CampaignConfig: ("campaign", "fedbank server run"),
    ClientConfig: ("client", "fedbank client start"),
    ServeConfig: ("serve", "fedbank client serve"),
}
"""The primary configuration and the command of every kind of settings."""


def load_simulate(overrides: Sequence[str]) -> SimulateConfig:
    """The settings of ``fedbank simulate`` with ``overrides``; ``ConfigError`` if any is unknown or out of range."""
    return _load(SimulateConfig, overrides)


def load_campaign(overrides: Sequence[str]) -> CampaignConfig:
    """The settings of ``fedbank server run`` with ``overrides``; ``ConfigError`` as above."""
    return _load(CampaignConfig, overrides)


def load_client(overrides: Sequence[str]) -> ClientConfig:
    """The settings of ``fedbank client start`` with ``overrides``; ``ConfigError`` as above."""
    return _load(ClientConfig, overrides)


def load_serve(overrides: Sequence[str]) -> ServeConfig:
    """The settings of ``fedbank client serve`` with ``overrides``; ``ConfigError`` as above."""
    return _load(ServeConfig, overrides)


def parse_terms(values: object) -> TermsConfig:
    """The terms of a campaign as another party sent them (JSON values), held to the same rules as one's own settings.

    Raises:
        ConfigError: a setting is unknown, missing, of another type or out of range, or would be looked up elsewhere.
    """
    if "${" in json.dumps(values):  # OmegaConf would replace it, with a variable of our environment if so asked
        raise ConfigError("Expected plain values as the terms of a campaign, got a reference (${...}). Refuse them.")
    names = set(_names("", values))
    if not isinstance(values, dict) or names != set(_setting_names(TermsConfig)):
        wrong = sorted(names ^ set(_setting_names(TermsConfig)))
        raise ConfigError(f"Expected exactly the terms of a campaign, got a difference in {wrong[:1] or 'all'}.")
    config = _typed(TermsConfig, OmegaConf.create(values))
    check(config)
    return config


def parse_simulate(text: str) -> SimulateConfig:
    """The settings that ``to_yaml`` wrote."""
    try:
        written = OmegaConf.create(text)
        keys = set(_names("", OmegaConf.to_container(written)))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError("Expected the settings of a run in config.yaml, got no YAML. Restore the file.") from error
    if missing := sorted(set(_setting_names(SimulateConfig)) - keys):
        raise ConfigError(f"Expected every setting in config.yaml, got none for {missing[0]}. Restore the file.")
    config = _typed(SimulateConfig, written)
    check(config)
    return config


def to_yaml(config: SimulateConfig) -> str:
    """All settings, resolved, as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """One list of overrides per run of a sweep: the product of all comma-separated values, in their order."""
    try:
        parsed = OverridesParser.create().parse_overrides([_with_quoted_path(o) for o in overrides])
        choices = [
            [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
            if o.is_discrete_sweep()
            else [str(o.input_line)]
            for o in parsed
        ]
    except HydraException as error:
        raise ConfigError(_explain(error, SimulateConfig)) from error
    return [list(run) for run in itertools.product(*choices)]


def _load(schema: type[_Settings], overrides: Sequence[str]) -> _Settings:
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            composed = compose(_COMMANDS[schema][0], overrides=[_with_quoted_path(override) for override in overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, schema)) from error
    config = _typed(schema, composed)
    check(config)
    return config


def _with_quoted_path(override: str) -> str:
    """A path is taken as it stands: spaces, commas, ``=`` and brackets in it are not Hydra's grammar."""
    name, equals, value = override.partition("=")
    if not equals or name not in PATHS or value in ("", "null") or value[0] in "'\"":
        return override
    escaped = value.replace("'", "\\'")
    return f"{name}='{escaped}'"


def config_dir() -> Path:
    """``conf/``: inside the package when installed, beside it in a checkout."""
    installed = Path(str(files("fedbank"))) / "conf"
    return installed if installed.is_dir() else Path(str(files("fedbank"))).resolve().parent / "conf"


def _typed(schema: type[_Settings], composed: Any) -> _Settings:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), composed)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, schema)) from error
    if not isinstance(config, schema):
        raise ConfigError("Expected settings by name, got something else. Restore the file.")
    return config


def _explain(error: Exception, schema: type[Any]) -> str:
    """Hydra's and OmegaConf's errors in the words of ours: expected, got, what to do."""
    text, command = str(error), _COMMANDS.get(schema, ("", "fedbank simulate"))[1]
    if unknown := re.search(r"Could not override '(.+?)'|Key '(.+?)' is not in struct|Key '(.+?)' not in '", text):
        key = str(getattr(error, "full_key", None) or next(group for group in unknown.groups() if group))
        return f"Expected a known setting, got {key!r}.{_nearest(key, _setting_names(schema))} See {command} --help."
    if missing := re.search(r"Could not find '([\w.]+)/([^']+)'", text):
        group, option = missing.groups()
        options = sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
        return f"Expected {group}={'|'.join(options)}, got {option!r}.{_nearest(option, options)}"
    first = text.strip().splitlines()[0].rstrip(".")
    full_key = getattr(error, "full_key", None)
    where = f" for {full_key}" if full_key and str(full_key) not in first else ""
    return f"Expected a valid setting{where}, got: {first}. Write overrides as name=value; see {command} --help."


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def _setting_names(schema: type[Any]) -> list[str]:
    return _names("", OmegaConf.to_container(OmegaConf.structured(schema())))


def _names(prefix: str, value: Any) -> list[str]:
    """The dotted names of all settings in a tree, sections included."""
    if not isinstance(value, dict):
        return []
    return [name for key, child in value.items() for name in (f"{prefix}{key}", *_names(f"{prefix}{key}.", child))]
