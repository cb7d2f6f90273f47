"""Which release answers, kept through restarts: it takes up what was adopted, watches the gates, and goes back.

Every release is verified anew before it is loaded, and again whenever something about releases changes on disk. What
cannot be verified any more is not served, whatever it was before.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from fedbank.errors import FedBankError
from fedbank.serving.engines.interface import DownError, Engine, EngineError
from fedbank.serving.rollout.file import MAX_EVENTS, Event, Kept, read_rollout, write_rollout
from fedbank.serving.rollout.stages import Candidate, Gates, Rollout, Stage, Verdict, judge

_VERIFIED_FOR = timedelta(hours=1)
_LONGEST_SAID = 500
_NEVER = object()
ITSELF = "service"
"""The actor of what nobody commanded."""
Note = Callable[[str, str, str, str], None]
"""Gets action, release, result, actor: the bank's evidence. May block; ``FedBankError`` if it cannot be kept now."""


class NoReleaseError(FedBankError):
    """There is no release that may answer."""


class ChangedReleaseError(FedBankError):
    """A release of the same name is another one than before."""


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
        self._doubted: set[str] = set()
        self._verified: Hashable = _NEVER
        self._verified_at: datetime | None = None
        self._taken_up: Hashable = _NEVER
        self._not_taken = ""
        self._written: Kept = self._kept
        self._notes = deque[tuple[str, str, str, str]]()
        self._disk = threading.Lock()
        self._unloads: dict[str, asyncio.Task[None]] = {}
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

    def doubt(self, release: str) -> None:
        """The engine refused or lost it: whether it still has it is looked at with the next look."""
        self._doubted.add(release)

    async def look(self, now: datetime) -> None:
        """Take up what was adopted, give up what is not valid any more, ask the gates; what went wrong is told."""
        async with self._changing:
            try:
                await self._follow(now)
                self.problem = self._not_taken
            except FedBankError as error:
                self.problem = str(error)
            self._judge(now)
            self._sweep()
            await self._keep()

    async def promote(self, by: str, now: datetime) -> None:
        """One stage on; without a candidate, what was given up is tried again. ``RolloutError`` if there is neither."""
        async with self._changing:
            aside = self._kept.set_aside
            if self.rollout.candidate is None and aside is not None:
                await self._begin(await asyncio.to_thread(self._source.of, aside, now), by, now)
                self._kept = replace(self._kept, set_aside=None)
            else:
                self._promote(by, now)
            await self._keep()

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
        await self._keep()

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
        for task in self._unloads.values():
            task.cancel()
        await self._keep()

    # Steps: each leaves a rollout in which whoever answers is loaded.

    async def _follow(self, now: datetime) -> None:
        """Everything that is served is valid and loaded, and what was adopted is on its way."""
        mark = await asyncio.to_thread(self._source.mark)
        if self._verified_at is None or now - self._verified_at > _VERIFIED_FOR:
            self._verified = self._taken_up = _NEVER
        if mark != self._verified:
            await self._verify_served(now)
            self._verified, self._verified_at = mark, now
        else:
            await self._load_missing(now)
        if mark != self._taken_up:
            try:
                await self._take_up(now)
                self._not_taken = ""
            except EngineError:  # to be tried again
                raise
            except FedBankError as error:
                self._not_taken = str(error)
            self._taken_up = mark

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
            self._kept = replace(self._kept, set_aside=None)  # it begins again once it is adopted again
        if offered.release == self.rollout.stable:
            return
        if offered.release == self.rollout.previous:  # client rollback: at once
            await self._load(offered)
            self._give_up(self.rollout.roll_back(), "client rollback", ITSELF, now)
            self._kept = replace(self._kept, set_aside=None)
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
        if found is None or found.release not in self._loaded:
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
        """It is not set aside: once it is valid again, and still the one that is adopted, it begins again."""
        rollout = self.rollout
        if release not in self._served():  # rolled back meanwhile
            return
        if rollout.candidate is not None and rollout.candidate.release == release:
            self._set(rollout.roll_back())
        elif release == rollout.previous:
            self._set(replace(rollout, previous=None))
        else:
            self._set(Rollout(stable=rollout.previous))
        self._taken_up = _NEVER
        self._tell("release-refused", release, why, ITSELF, now)
        self._sweep()

    async def _load_missing(self, now: datetime) -> None:
        """After an engine that was away, or has begun anew without what it had."""
        for release in self._served():
            known = self._loaded.get(release)
            if known is None:
                known = await asyncio.to_thread(self._source.of, release, now)
            await self._load(known)

    def _served(self) -> list[str]:
        rollout = self.rollout
        names = (rollout.stable, rollout.previous, rollout.candidate.release if rollout.candidate else None)
        return [name for name in names if name is not None]

    async def _load(self, offered: Offered) -> None:
        release, known = offered.release, self._loaded.get(offered.release)
        if known is not None and known.digest != offered.digest:
            raise ChangedReleaseError(
                f"Expected the release {release} as it was loaded, got another manifest under its name. "
                "It is not served; ask the members which of the two they signed."
            )
        if known is not None and release not in self._doubted:
            return
        if (leaving := self._unloads.get(release)) is not None:  # else it would be unloaded after it is loaded
            await asyncio.wait([leaving])
        try:
            await self._engine.load(release, offered.adapter)
        except RuntimeError as error:  # what torch raises: out of memory above all
            raise DownError(f"Expected the engine to load {release}, got an error, often memory. Free some.") from error
        self._loaded[release] = offered
        self._doubted.discard(release)

    def _sweep(self) -> None:
        """Unload whoever is not served any more; later, once those that it is answering are answered."""
        for release in self._loaded.keys() - set(self._served()):
            del self._loaded[release]
            self._unloads[release] = asyncio.get_running_loop().create_task(self._unloaded(release))

    async def _unloaded(self, release: str) -> None:
        try:
            await self._engine.unload(release)
        except EngineError as error:
            self.problem = str(error)
        finally:
            del self._unloads[release]

    def _set(self, rollout: Rollout) -> None:
        self._kept = replace(self._kept, rollout=rollout)

    def _tell(self, action: str, release: str, said: str, by: str, now: datetime) -> None:
        event = Event(now.isoformat(timespec="seconds"), action, release, said[:_LONGEST_SAID])
        self._kept = replace(self._kept, events=(event, *self._kept.events)[:MAX_EVENTS])
        self._notes.append((action, release, event.said, by))

    async def _keep(self) -> None:
        """On disk and in the evidence; a step that was taken stands without, and is kept with the next look."""
        try:
            await asyncio.to_thread(self._write)
        except OSError as error:
            self.problem = (
                f"Expected to keep what is served in {self._path}, got: {error.strerror}. A restart would begin with "
                "what was kept last. Free space or mend the permissions."
            )
        except FedBankError as error:
            self.problem = str(error)

    def _write(self) -> None:
        """One at a time, and each the newest: nothing older is written over it."""
        with self._disk:
            kept = self._kept
            try:
                if kept is not self._written:
                    write_rollout(self._path, kept)
                    self._written = kept
            finally:
                while self._notes:
                    self._note(*self._notes[0])
                    self._notes.popleft()

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
