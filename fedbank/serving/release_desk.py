"""Which release answers, kept through restarts: it takes up what was adopted, watches the gates, and goes back.

Every release is verified anew before it is loaded, and again whenever something about releases changes on disk. What
cannot be verified any more is not served, whatever it was before.
"""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from fedbank.errors import FedBankError
from fedbank.serving.engine import Engine, EngineError
from fedbank.serving.rollout import Candidate, Gates, Rollout, Stage, Verdict, judge
from fedbank.serving.rollout_file import MAX_EVENTS, Event, Kept, read_rollout, write_rollout

_VERIFIED_FOR = timedelta(hours=1)
ITSELF = "service"
"""The actor of what nobody commanded."""
Note = Callable[[str, str, str, str], None]
"""Gets action, release, result, actor: the bank's evidence."""


class NoReleaseError(FedBankError):
    """There is no release that may answer."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A verified release: the SHA-256 of its manifest, and the folder of its adapter."""

    release: str
    digest: str
    adapter: Path


class Source(Protocol):
    """Releases that are on this machine. Every method may block; ``FedBankError`` says why one is not to be served."""

    def mark(self) -> Hashable:
        """Cheap, and different once anything about releases has changed."""
        ...

    def offered(self, now: datetime) -> Offered | None:
        """The release that ``client sync`` adopted last, verified anew; ``None`` before the first."""
        ...

    def of(self, release: str, now: datetime) -> Offered:
        """One that is here, verified anew."""
        ...


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """``shadow_share`` of questions, ``canary_share`` of conversations. ``automatic``: goes on once the gates pass."""

    shadow_share: float = 0.2
    canary_share: float = 0.1
    automatic: bool = True
    gates: Gates = field(default_factory=Gates)


class ReleaseDesk:
    """One service's releases. Its methods belong to the event loop of the service."""

    def __init__(self, engine: Engine, source: Source, path: Path, settings: RolloutSettings, note: Note) -> None:
        """``path``: of the rollout on disk (``RolloutFileError`` if it is damaged)."""
        self._engine, self._source, self._path, self._note = engine, source, path, note
        self.settings = settings
        self._kept = read_rollout(path)
        self._loaded: dict[str, Offered] = {}
        self._mark: Hashable = None
        self._verified_at: datetime | None = None
        self._written: Kept = self._kept
        self._unloads: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self.problem = ""

    @property
    def rollout(self) -> Rollout:
        """What is served."""
        return self._kept.rollout

    def choose(self, conversation: str) -> Offered:
        """Who answers a conversation; a candidate that is not loaded is passed over.

        Raises:
            NoReleaseError: nobody may.
        """
        for release in (self.rollout.release_for(conversation), self.rollout.stable):
            if release is not None and (found := self._loaded.get(release)) is not None:
                return found
        raise NoReleaseError(
            self.problem or "Expected a release that client sync adopted, got none yet. Run: fedbank client sync"
        )

    def loaded(self, release: str | None) -> Offered | None:
        """The release, if it can answer."""
        return self._loaded.get(release) if release is not None else None

    def saw(self, release: str, pace_ms: float, *, failed: bool) -> None:
        """One more answer; ``pace_ms``: see ``Tally``."""
        self._set(self.rollout.saw(release, pace_ms, failed=failed))

    def compared(self, release: str, *, agrees: bool) -> None:
        """One more answer of the candidate beside the stable one's."""
        self._set(self.rollout.compared(release, agrees=agrees))

    def probed(self, release: str, *, right: bool) -> None:
        """One more probe question of the candidate."""
        self._set(self.rollout.probed(release, right=right))

    async def look(self, now: datetime) -> None:
        """Take up what was adopted, give up what is not valid any more, ask the gates; what went wrong is told."""
        async with self._changing:
            try:
                mark = self._source.mark()
                late = self._verified_at is None or now - self._verified_at > _VERIFIED_FOR
                if mark != self._mark or late:
                    await self._verify_served(now)
                    await self._take_up(now)
                    self._mark, self._verified_at = mark, now
                else:
                    await self._load_missing(now)
                self.problem = ""
            except FedBankError as error:
                self.problem = str(error)
            self._judge(now)
            self._sweep()
            self._write()

    async def promote(self, by: str, now: datetime) -> None:
        """One stage on; without a candidate, what was given up is tried again. ``RolloutError`` if there is neither."""
        async with self._changing:
            aside = self._kept.set_aside
            if self.rollout.candidate is None and aside is not None:
                await self._begin(await asyncio.to_thread(self._source.of, aside, now), by, now)
                self._kept = replace(self._kept, set_aside=None)
            else:
                self._promote(by, now)
            self._write()

    async def roll_back(self, by: str, now: datetime) -> None:
        """Without the candidate, or the release before again; ``RolloutError`` if there is neither.

        At once, whatever is being loaded meanwhile: only a release before that is not loaded has to wait.
        """
        after = self.rollout.roll_back()
        if self.rollout.candidate is None and after.stable not in self._loaded:
            async with self._changing:
                await self._load(await asyncio.to_thread(self._source.of, str(after.stable), now))
                after = self.rollout.roll_back()
        self._give_up(after, "by the operator", by, now)
        self._write()

    def view(self, now: datetime) -> dict[str, Any]:
        """For the operator: JSON without a customer's word."""
        rollout, found = self.rollout, self.rollout.candidate
        return {
            "stable": _about(self._loaded.get(rollout.stable), rollout.stable) if rollout.stable else None,
            "previous": rollout.previous,
            "candidate": self._candidate_view(found, now) if found else None,
            "set_aside": self._kept.set_aside,
            "automatic": self.settings.automatic,
            "events": [
                {"at": one.at, "action": one.action, "release": one.release, "said": one.said}
                for one in self._kept.events
            ],
            "problem": self.problem,
        }

    async def close(self) -> None:
        """Keep what was seen; whoever is being unloaded goes with the engine."""
        for task in self._unloads:
            task.cancel()
        self._write()

    # Steps: each leaves a rollout in which whoever answers is loaded.

    async def _take_up(self, now: datetime) -> None:
        offered, rollout = await asyncio.to_thread(self._source.offered, now), self.rollout
        if offered is None or offered.release == self._kept.set_aside:
            return
        self._kept = replace(self._kept, set_aside=None)
        candidate = rollout.candidate.release if rollout.candidate else None
        if offered.release == candidate:
            return
        if candidate is not None:  # the bank adopted another one, or went back to the stable one
            self._give_up(rollout.roll_back(), f"{offered.release} was adopted instead", ITSELF, now)
        if offered.release == self.rollout.stable:
            return
        if offered.release == self.rollout.previous:  # client rollback: at once
            await self._load(offered)
            self._give_up(self.rollout.roll_back(), "client rollback", ITSELF, now)
            return
        await self._begin(offered, ITSELF, now)

    async def _begin(self, offered: Offered, by: str, now: datetime) -> None:
        await self._load(offered)
        self._set(self.rollout.begin(offered.release, self.settings.shadow_share, now))
        stage = Stage.SHADOW if self.rollout.candidate else "stable"
        self._tell(f"release-{stage}", offered.release, "begins" if self.rollout.candidate else "the first", by, now)

    def _promote(self, by: str, now: datetime) -> None:
        after = self.rollout.promote(self.settings.canary_share, now)
        self._set(after)
        stage = "canary" if after.candidate else "stable"
        release = after.candidate.release if after.candidate else str(after.stable)
        self._tell(f"release-{stage}", release, "gates passed" if by == ITSELF else "by the operator", by, now)
        self._sweep()

    def _give_up(self, after: Rollout, why: str, by: str, now: datetime) -> None:
        """``after`` is the rollout without whoever was on its way, or was stable last."""
        before = self.rollout
        gone = before.candidate.release if before.candidate else str(before.stable)
        self._set(after)
        self._kept = replace(self._kept, set_aside=gone)
        self._tell("release-given-up", gone, why, by, now)
        self._sweep()

    def _judge(self, now: datetime) -> None:
        found = self.rollout.candidate
        if found is None:
            return
        judged = judge(found, self.settings.gates, now)
        if judged.verdict is Verdict.FAIL:
            self._give_up(self.rollout.roll_back(), "; ".join(judged.lines), ITSELF, now)
        elif judged.verdict is Verdict.PASS and self.settings.automatic:
            self._promote(ITSELF, now)

    async def _verify_served(self, now: datetime) -> None:
        """Whoever is served, verified anew; who fails is given up, and the service says so."""
        for release in self._served():
            try:
                offered = await asyncio.to_thread(self._source.of, release, now)
                await self._load(offered)
            except EngineError:
                raise
            except FedBankError as error:
                self._drop(release, str(error), now)

    def _drop(self, release: str, why: str, now: datetime) -> None:
        rollout = self.rollout
        if release not in self._served():  # rolled back meanwhile
            return
        if rollout.candidate is not None and rollout.candidate.release == release:
            self._give_up(rollout.roll_back(), why, ITSELF, now)
            return
        if release == rollout.previous:
            self._set(replace(rollout, previous=None))
        else:
            self._set(Rollout(stable=rollout.previous))
        self._kept = replace(self._kept, set_aside=release)
        self._tell("release-refused", release, why, ITSELF, now)
        self._sweep()

    async def _load_missing(self, now: datetime) -> None:
        """After an engine that was away."""
        for release in self._served():
            if release not in self._loaded:
                await self._load(await asyncio.to_thread(self._source.of, release, now))

    def _served(self) -> list[str]:
        rollout = self.rollout
        names = (rollout.stable, rollout.previous, rollout.candidate.release if rollout.candidate else None)
        return [name for name in names if name is not None]

    async def _load(self, offered: Offered) -> None:
        if offered.release not in self._loaded:
            await self._engine.load(offered.release, offered.adapter)
            self._loaded[offered.release] = offered

    def _sweep(self) -> None:
        """Unload whoever is not served any more; later, once those that it is answering are answered."""
        for release in self._loaded.keys() - set(self._served()):
            del self._loaded[release]
            task = asyncio.get_running_loop().create_task(self._unloaded(release))
            self._unloads.add(task)
            task.add_done_callback(self._unloads.discard)

    async def _unloaded(self, release: str) -> None:
        try:
            await self._engine.unload(release)
        except EngineError as error:
            self.problem = str(error)

    def _set(self, rollout: Rollout) -> None:
        self._kept = replace(self._kept, rollout=rollout)

    def _tell(self, action: str, release: str, said: str, by: str, now: datetime) -> None:
        event = Event(now.isoformat(timespec="seconds"), action, release, said)
        self._kept = replace(self._kept, events=(event, *self._kept.events)[:MAX_EVENTS])
        self._note(action, release, said, by)

    def _write(self) -> None:
        if self._kept is not self._written:
            write_rollout(self._path, self._kept)
            self._written = self._kept

    def _candidate_view(self, found: Candidate, now: datetime) -> dict[str, Any]:
        judged = judge(found, self.settings.gates, now)
        return {
            **_about(self._loaded.get(found.release), found.release),
            "stage": found.stage,
            "share": found.share,
            "since": found.since.isoformat(timespec="seconds"),
            "verdict": judged.verdict,
            "lines": list(judged.lines),
        }


def _about(offered: Offered | None, release: str) -> dict[str, Any]:
    return {"release": release, "digest": offered.digest if offered else "", "loaded": offered is not None}
