"""The bank's service put together from its folder and settings, and taken apart again in the right order."""

from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedbank.config import ServeConfig
from fedbank.config.schema import RolloutConfig
from fedbank.errors import ConfigError
from fedbank.evidence.log import EvidenceLog
from fedbank.model.folder import base_digest
from fedbank.release.errors import ReleaseError
from fedbank.release.inspection import inspect
from fedbank.release.manifest import Manifest
from fedbank.release.offline import ADAPTER
from fedbank.serving.access.development_issuer import DevelopmentIssuer
from fedbank.serving.access.jwks import KeySource, keys_from_file, keys_from_url
from fedbank.serving.access.tokens import TokenPolicy, TokenVerifier
from fedbank.serving.answering import Answering, AnswerLimits, Desks
from fedbank.serving.engines.interface import Engine
from fedbank.serving.labelling import AiNotice
from fedbank.serving.monitor import Monitor
from fedbank.serving.personal_data import PersonalData
from fedbank.serving.pipeline import Pipeline
from fedbank.serving.rollout.desk import Note, ReleaseDesk, RolloutSettings
from fedbank.serving.rollout.file import read_rollout
from fedbank.serving.rollout.mirroring import Mirror, Probe
from fedbank.serving.rollout.stages import Gates
from fedbank.serving.sharing.shared_answers import SharedAnswers
from fedbank.serving.store.audit import AnswerAudit
from fedbank.serving.store.conversations import Conversations
from fedbank.serving.store.feedback import FeedbackDesk
from fedbank.serving.store.jobs import Jobs
from fedbank.serving.store.records import Records
from fedbank.serving.store.vault import RecordsKey
from fedbank_client.home import Home
from fedbank_client.loading import model_folder
from fedbank_client.policy import read_policy
from fedbank_client.release_home import ReleaseHome
from fedbank_client.serving.engines import Base, opened_engine
from fedbank_client.serving.folder import ServiceFolder
from fedbank_client.serving.limits import HttpLimits, Rates
from fedbank_client.serving.probes import read_probes
from fedbank_client.serving.service import Development, Service
from fedbank_client.serving.shared_stores import shared_stores
from fedbank_client.serving.source import BaseFolder, ReleaseSource

_MOST_INSTRUCTION = 64 * 1024
_RECORD_THREADS = 4
_OPEN_QUESTIONS = 4
"""Of one principal: half of the engine's slots."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Opened:
    """A service that can answer, and what works in its background. ``engine_ended``: see ``engines.Started``."""

    service: Service
    mirror: Mirror
    engine_ended: Callable[[], int | None]


@asynccontextmanager
async def opened_service(
    home: Home, config: ServeConfig, passphrase: bytes | None, say: Say, *, stop_s: int = 30
) -> AsyncIterator[Opened]:
    """Everything that answers needs, until the block ends: then what was answered is kept, the engine ended, the log
    signed. ``stop_s``: how long answers that run may go on.

    Raises:
        FedBankError: a part cannot be opened; what was opened is closed again.
    """
    folder = ServiceFolder(home)
    async with AsyncExitStack() as stack:
        stack.enter_context(folder.exclusive())
        access = access_of(config, folder.path)
        probes, instruction = _probes(config.rollout), read_instruction(config.instruction)
        read_rollout(folder.rollout)  # what is damaged is told before a model is loaded, and not with every question
        evidence = stack.enter_context(folder.open_evidence())
        evidence.checkpoint()
        records, key = folder.open_records(config.records, passphrase)
        stack.callback(records.close)
        sessions, cache = await shared_stores(config, key, stack)
        base = BaseFolder(model_folder(config.model), base_digest)
        started = await stack.enter_async_context(opened_engine(config, _base(home, base, folder), say))
        engine = started.engine
        releases = _desk(engine, ReleaseSource(ReleaseHome(home), base), folder, config.rollout, probes, evidence)
        stack.push_async_callback(releases.close)
        mirror = Mirror(engine, releases, probes)
        stack.push_async_callback(mirror.close)
        pipeline = Pipeline((PersonalData(), AiNotice()))
        worker = ThreadPoolExecutor(_RECORD_THREADS, "fedbank-records")
        stack.callback(worker.shutdown)
        desks = Desks(
            engine,
            pipeline,
            releases,
            mirror,
            sessions,
            Conversations(records),
            AnswerAudit(evidence),
            Monitor(),
            worker,
            home.bank,
            instruction,
            SharedAnswers(cache, key, pipeline.policies) if cache is not None else None,
        )
        limits = config.limits
        most = AnswerLimits(limits.question_characters, limits.answer_tokens, limits.max_answer_tokens)
        answering = Answering(desks, most, records.customer)
        stack.push_async_callback(answering.close)
        service = _service(config, desks, answering, (records, key), evidence, access, stop_s)
        stack.callback(service.tokens.close)
        stack.callback(service.store.close)
        yield Opened(service, mirror, started.ended)


def _service(
    config: ServeConfig,
    desks: Desks,
    answering: Answering,
    kept: tuple[Records, RecordsKey],
    evidence: EvidenceLog,
    access: tuple[TokenVerifier, Development | None],
    stop_s: int,
) -> Service:
    """What the routes need."""
    (records, key), (verifier, development), limits = kept, access, config.limits
    return Service(
        answering=answering,
        verifier=verifier,
        key=key,
        records=records,
        conversations=desks.conversations,
        feedback=FeedbackDesk(records),
        jobs=Jobs(records),
        releases=desks.releases,
        monitor=desks.monitor,
        engine=desks.engine,
        audit=desks.audit,
        evidence=evidence,
        rates=Rates(limits.per_minute / 60, limits.burst, most_open=_OPEN_QUESTIONS),
        development=development,
        limits=HttpLimits(request_s=limits.request_s, shutdown_s=stop_s),
    )


def access_of(config: ServeConfig, folder: Path) -> tuple[TokenVerifier, Development | None]:
    """Who is let in; the development issuer's key lies in ``folder``.

    Raises:
        ConfigError: the development issuer beside an address that others reach, or settings that contradict.
        KeySetError: the file of keys cannot be used, or the key set's address is none.
    """
    access = config.access
    if access.kind == "development":
        issuer = DevelopmentIssuer(folder, config.host)
        verifier = TokenVerifier(issuer.policy(access.audience), issuer.keys())
        return verifier, Development(issuer, access.audience)
    claim = tuple(access.role_claim.split("."))
    policy = TokenPolicy(str(access.issuer), access.audience, tuple(access.algorithms), claim)
    return TokenVerifier(policy, _keys(str(access.jwks), access.authority)), None


def read_instruction(path: str | None) -> str:
    """The bank's own instruction to the model, in UTF-8; empty if there is none.

    Raises:
        ConfigError: it cannot be read, or is longer than 64 KiB.
    """
    if path is None:
        return ""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_INSTRUCTION + 1)
        if len(content) > _MOST_INSTRUCTION:
            raise ValueError
        return content.decode("utf-8").strip()
    except (OSError, ValueError):
        raise ConfigError(
            f"Expected at most {_MOST_INSTRUCTION} bytes of UTF-8 in {path}, the instruction to the model, got none or "
            "something else. Name the right file."
        ) from None


def _probes(rollout: RolloutConfig) -> tuple[Probe, ...]:
    return read_probes(Path(rollout.probes)) if rollout.probes else ()


def _keys(named: str, authority: str | None) -> KeySource:
    if "://" in named:
        return keys_from_url(named, authority=Path(authority) if authority else None)
    keys = keys_from_file(Path(named))
    keys.key("", datetime.now(UTC))  # a file that cannot be used is told at the start
    return keys


def _desk(
    engine: Engine,
    source: ReleaseSource,
    folder: ServiceFolder,
    rollout: RolloutConfig,
    probes: Sequence[Probe],
    evidence: EvidenceLog,
) -> ReleaseDesk:
    gates = Gates(
        rollout.answers,
        rollout.failure_rate,
        rollout.slowdown,
        rollout.agreement,
        len(probes),
        timedelta(days=rollout.longest_days),
    )
    settings = RolloutSettings(rollout.shadow_share, rollout.canary_share, rollout.automatic, gates)
    return ReleaseDesk(engine, source, folder.rollout, settings, _note_in(evidence))


def _note_in(evidence: EvidenceLog) -> Note:
    def note(action: str, release: str, result: str, actor: str) -> None:
        evidence.append(action, release, result, actor)

    return note


def _base(home: Home, base: BaseFolder, folder: ServiceFolder) -> Base:
    """What the engine has to know of the base model and of the releases that this bank takes."""
    releases = ReleaseHome(home)
    adopted, manifest = releases.adopted(), None
    if adopted is not None:
        with suppress(ReleaseError):  # the desk refuses it, and says why
            manifest = inspect(releases.of(adopted.release) / ADAPTER).manifest
    return Base(base.folder, base.digest(), manifest, _max_rank(home, manifest), folder.engine_log)


def _max_rank(home: Home, adopted: Manifest | None) -> int:
    allowed = read_policy(home.policy).max_adapter_rank if home.policy.exists() else 1
    return max(allowed, adopted.adapter["rank"] if adopted else 1)
