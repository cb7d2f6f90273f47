"""Two releases that take turns under load: who was answered by which, and whether it was that one's answer.

A question is one whose greedy answers differ between the releases, and pass the service's filters as they are. So an
answer shows by itself which release gave it, and a mixed one is none of either's.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fedbank.data.redact import redact
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.quiet import quiet_libraries
from fedbank.model.spec import ModelSpec
from fedbank.serving.answering import Asker, Question
from fedbank.serving.engines.batching import Limits
from fedbank.serving.engines.interface import Turn
from fedbank.serving.engines.transformers_engine import LocalModel, TransformersEngine
from fedbank.serving.personal_data import PersonalData
from fedbank.serving.pipeline import Outgoing, Passage, language_of
from fedbank.serving.rollout.desk import ReleaseDesk, RolloutSettings
from fedbank.serving.rollout.stages import Gates
from simulations.benchmarks import open_loop
from simulations.benchmarks.open_loop import Observed
from simulations.benchmarks.service_world import Folders, World, service
from simulations.benchmarks.serving_questions import questions
from simulations.benchmarks.tiny_releases import TinyRelease

OLD, NEW = "spring-1", "summer-2"
_BY_HAND = RolloutSettings(shadow_share=0.1, canary_share=0.2, automatic=False, gates=Gates(answers=10**9))


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds of ``time.perf_counter`` at which it began and ended; ``mixed``: not what ``release`` says."""

    release: str
    began: float
    ended: float
    mixed: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A command at ``at``, after which ``to`` alone answers, ``until`` the next is given."""

    kind: str
    at: float
    to: str
    until: float


@dataclass(slots=True)
class Switched:
    """What was seen. ``taken_up_s``: from the command that brings a release into memory until it is there."""

    answers: list[Answer] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    taken_up_s: list[float] = field(default_factory=list)
    load: Observed = field(default_factory=Observed)

    def seconds(self, kind: str) -> list[float]:
        """Of each command of this kind, until nobody is answered by the release before it and somebody by ``to``."""
        return [seconds for change, seconds in self._lasting() if change.kind == kind]

    def _lasting(self) -> Iterator[tuple[Change, float]]:
        for change in self.changes:
            during = [one for one in self.answers if one.began < change.until and one.ended > change.at]
            last = max((one.ended for one in during if one.release != change.to), default=change.at)
            firsts = [one.ended for one in during if one.release == change.to and one.began >= change.at]
            yield change, max(last, min(firsts, default=float("inf"))) - change.at


@dataclass(frozen=True, slots=True)
class Load:
    """Questions a second, answers of ``tokens`` at most, and what the engine takes of them at once."""

    per_s: float
    tokens: int
    limits: Limits = field(default_factory=lambda: Limits(max_running=16))


def switch(folder: Path, load: Load, times: int, pause_s: float) -> Switched:
    """Promote and roll back ``times`` each, ``pause_s`` apart, with real merged releases of the tiny model."""
    quiet_libraries()
    local = LocalModel.load(ModelSpec("tiny"), base_digest(tiny_folder()))
    releases = [TinyRelease(folder / name, seed) for seed, name in enumerate((OLD, NEW))]
    said = _said(local, releases, load.tokens)
    if not said:
        raise AssertionError("two releases that answer every question alike")
    return asyncio.run(_switch(folder, local, releases, said, load, times, pause_s))


def _said(local: LocalModel, releases: list[TinyRelease], tokens: int) -> dict[str, dict[str, str]]:
    """Question to each release's answer."""
    found = {}
    for text in dict.fromkeys(questions(120)):
        if redact(text).spans:  # the model would be asked another
            continue
        answers = {one.offered.release: one.says(local, text, tokens) for one in releases}
        plain = [said for said in answers.values() if said.strip() and asyncio.run(_shown(text, said)) == said]
        if len(plain) == len(answers) and len(set(answers.values())) == len(answers):
            found[text] = answers
    return found


async def _shown(question: str, said: str) -> str:
    """What the service's filters leave of it."""
    found = await PersonalData().incoming(Passage("r", language_of(question), (Turn("user", question),)))
    outgoing = Outgoing(found.filters)
    return await outgoing.feed(said) + await outgoing.end()


async def _switch(
    folder: Path,
    local: LocalModel,
    releases: list[TinyRelease],
    said: Mapping[str, Mapping[str, str]],
    load: Load,
    times: int,
    pause_s: float,
) -> Switched:
    source = Folders({one.offered.release: one.offered for one in releases}, OLD)
    seen, texts = Switched(), list(said)
    async with service(folder, TransformersEngine(local, load.limits), source, _BY_HAND) as world:

        async def ask(number: int, due: float) -> None:
            text, began = texts[number % len(texts)], time.perf_counter()
            asker = Asker(f"{number:032x}", f"C-{number % 500}")
            answer = await world.answering.answer(asker, Question(text, max_tokens=load.tokens))
            mixed = answer.text != said[text][answer.release]
            seen.answers.append(Answer(answer.release, began, time.perf_counter(), mixed))

        commands = asyncio.create_task(_commands(world, source, seen, times, pause_s))
        seen.load = await open_loop.run(load.per_s, 2 * (times + 1) * pause_s, ask, until=commands)
    return seen


async def _commands(world: World, source: Folders, seen: Switched, times: int, pause_s: float) -> None:
    desk = world.releases
    for turn in range(times):
        began = time.perf_counter()
        if turn:
            await desk.promote("operator", _now())  # what was given up, once more
        else:
            source.adopted = NEW
            await desk.look(_now())
        seen.taken_up_s.append(time.perf_counter() - began)
        await desk.promote("operator", _now())
        await asyncio.sleep(pause_s)
        await _command(desk, seen, "promote", NEW, pause_s)
        await _command(desk, seen, "rollback", OLD, pause_s)


async def _command(desk: ReleaseDesk, seen: Switched, kind: str, to: str, pause_s: float) -> None:
    began = time.perf_counter()
    await (desk.promote if kind == "promote" else desk.roll_back)("operator", _now())
    await asyncio.sleep(pause_s)
    seen.changes.append(Change(kind, began, to, time.perf_counter()))


def _now() -> datetime:
    return datetime.now(UTC)
