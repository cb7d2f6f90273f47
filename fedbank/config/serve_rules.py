"""What the settings of ``fedbank client serve`` must hold, beside the rules that they share with other commands."""

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any

Rule = tuple[str, Callable[[Any], bool], str]

PATHS = (
    "engine.url",
    "engine.key",
    "engine.program",
    "access.issuer",
    "access.jwks",
    "access.authority",
    "tls.certificate",
    "tls.key",
    "tls.client_ca",
    "instruction",
    "redis.url",
    "redis.authority",
    "redis.certificate",
    "redis.key",
    "records.database",
    "records.key",
    "rollout.probes",
)
"""Settings that are taken as they stand: paths and addresses."""
_SECRET = ("redis.url", "redis.key", "records.database", "records.key", "engine.key", "tls.key")
_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
_ENGINES = ("transformers", "openai", "vllm")


def _is_address(value: str) -> bool:
    try:
        return bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _within(low: float, high: float) -> Callable[[float], bool]:
    return lambda value: low <= value <= high


RULES: tuple[Rule, ...] = (
    ("host", _is_address, "an address of this machine, such as 127.0.0.1 or 0.0.0.0"),
    ("port", _within(0, 65_535), "from 0 (any that is free) to 65535"),
    ("engine.kind", lambda v: v in _ENGINES, "transformers, openai or vllm"),
    ("engine.precision", lambda v: v is None or v in _PRECISIONS, "fp32, fp16, bf16, int8 or int4"),
    ("engine.context", _within(16, 1_048_576), "from 16 to 1048576 tokens"),
    ("engine.max_running", _within(1, 4096), "from 1 to 4096"),
    ("engine.max_waiting", _within(1, 65_536), "from 1 to 65536"),
    ("engine.window_ms", _within(0, 1000), "from 0 to 1000 milliseconds"),
    ("engine.max_wait_s", lambda v: 0 < v <= 3600, "above 0 and at most 3600 seconds"),
    ("engine.answer_s", lambda v: 0 < v <= 3600, "above 0 and at most 3600 seconds"),
    ("engine.memory_share", lambda v: 0 < v <= 1, "above 0 and at most 1"),
    ("engine.start_s", lambda v: 0 < v <= 86_400, "above 0 and at most 86400 seconds"),
    (
        "engine.url",
        lambda v: v is None or bool(re.fullmatch(r"https?://[^\s/@]+(/[^\s@?#]*)?", v)),
        "an address such as http://127.0.0.1:8000, without a password",
    ),
    ("access.kind", lambda v: v in ("development", "provider"), "development or provider"),
    ("access.audience", lambda v: bool(v.strip()), "a name"),
    ("access.algorithms", bool, "a list of algorithms"),
    ("access.role_claim", lambda v: all(v.split(".")), "the path of a claim, such as roles or realm_access.roles"),
    ("limits.per_minute", lambda v: 0 < v <= 1e6, "above 0 and at most 1000000"),
    ("limits.burst", _within(1, 100_000), "from 1 to 100000"),
    ("limits.question_characters", _within(1, 1_000_000), "from 1 to 1000000 characters"),
    ("limits.answer_tokens", _within(1, 1_000_000), "from 1 to 1000000 tokens"),
    ("limits.max_answer_tokens", _within(1, 1_000_000), "from 1 to 1000000 tokens"),
    ("limits.request_s", lambda v: 0 < v <= 3600, "above 0 and at most 3600 seconds"),
    ("sessions.max_turns", _within(2, 1000), "from 2 to 1000"),
    ("sessions.max_tokens", _within(1, 1_000_000), "from 1 to 1000000 tokens"),
    ("sessions.idle_minutes", lambda v: 0 < v <= 100_000, "above 0 and at most 100000 minutes"),
    ("sessions.lifetime_hours", lambda v: 0 < v <= 10_000, "above 0 and at most 10000 hours"),
    ("sessions.max_sessions", _within(1, 10_000_000), "from 1 to 10000000"),
    ("cache.entries", _within(1, 10_000_000), "from 1 to 10000000"),
    ("cache.minutes", lambda v: 0 < v <= 100_000, "above 0 and at most 100000 minutes"),
    ("records.retention_days", lambda v: 0 < v <= 36_500, "above 0 and at most 36500 days"),
    ("records.purge_at", lambda v: bool(re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", v)), "a time of day such as '03:00'"),
    ("rollout.shadow_share", lambda v: 0 < v <= 1, "above 0 and at most 1"),
    ("rollout.canary_share", lambda v: 0 < v <= 1, "above 0 and at most 1"),
    ("rollout.answers", _within(1, 1_000_000), "from 1 to 1000000"),
    ("rollout.failure_rate", _within(0, 1), "from 0 to 1"),
    ("rollout.slowdown", lambda v: 0 < v <= 1000, "above 0 and at most 1000"),
    ("rollout.agreement", _within(0, 1), "from 0 to 1"),
    ("rollout.longest_days", lambda v: 0 < v <= 3650, "above 0 and at most 3650 days"),
)


def contradictions(config: Any) -> Iterator[str]:
    """What two settings of the service say against each other; never the value of one that may hold a password."""
    for name in _SECRET:
        section, _, setting = name.rpartition(".")
        value = getattr(getattr(config, section) if section else config, setting)
        if value is not None and "://" in value:
            yield f"Expected {name} to be a file, got an address: every process could read it. Write it into a file."
    engine, limits, tls = config.engine, config.limits, config.tls
    if engine.kind == "openai" and engine.url is None:
        yield "Expected engine.url=URL with engine=openai, got none. Name the server that runs."
    if engine.kind == "vllm" and engine.program is None:
        yield "Expected engine.program with engine=vllm, got none. Name vLLM's command."
    if not limits.answer_tokens <= limits.max_answer_tokens < engine.context:
        yield (
            "Expected limits.answer_tokens, limits.max_answer_tokens and engine.context to grow in this order, got "
            f"{limits.answer_tokens}, {limits.max_answer_tokens} and {engine.context}. Set them."
        )
    if (tls.certificate is None) != (tls.key is None) or (tls.client_ca is not None and tls.certificate is None):
        yield "Expected tls.certificate and tls.key together, got one of them, or tls.client_ca alone. Set both."
    yield from _of_access(config.access)


def _of_access(access: Any) -> Iterator[str]:
    wanted = {"access.issuer": access.issuer, "access.jwks": access.jwks}
    if access.kind == "provider" and (missing := [name for name, value in wanted.items() if value is None]):
        yield f"Expected {missing[0]} with access=provider, got none. Name the bank's identity provider."
    if access.kind == "development" and (given := [name for name, value in wanted.items() if value is not None]):
        yield f"Expected access=provider with {given[0]}, got access=development. Choose one of the two."
