"""Which release answers: taken up, watched, given up, gone back to; through restarts, and whatever fails meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from scripted_service import NOW, Releases, ScriptedEngine, digest_of, gates, pieces, run, until

from fedbank.errors import FedBankError
from fedbank.serving.engines.interface import DownError, Generation, Turn
from fedbank.serving.rollout.desk import NoReleaseError, ReleaseDesk, RolloutSettings
from fedbank.serving.rollout.file import RolloutFileError, read_rollout
from fedbank.serving.rollout.stages import Rollout, RolloutError, Stage

MINUTE = timedelta(minutes=1)
SETTINGS = RolloutSettings(shadow_share=0.5, canary_share=0.5, gates=gates(2))
Notes = list[tuple[str, str, str, str]]


@asynccontextmanager
async def desk(
    folder: Path,
    engine: ScriptedEngine,
    source: Releases,
    settings: RolloutSettings = SETTINGS,
    notes: Notes | None = None,
) -> AsyncIterator[ReleaseDesk]:
    kept = notes if notes is not None else []
    opened = ReleaseDesk(engine, source, folder / "rollout.json", settings, lambda *note: kept.append(note))
    try:
        yield opened
    finally:
        await opened.close()


def answered(here: ReleaseDesk, release: str, times: int = 2, *, failed: bool = False) -> None:
    for _ in range(times):
        here.saw(release, 0.0 if failed else 100.0, failed=failed)


async def in_canary(here: ReleaseDesk, source: Releases) -> None:
    """spring is stable, autumn its canary."""
    source.adopt("spring")
    await here.look(NOW)
    source.adopt("autumn")
    await here.look(NOW)
    await here.promote("operator", NOW)


def stage_of(here: ReleaseDesk) -> tuple[str | None, str | None, Stage | None]:
    found = here.rollout.candidate
    return here.rollout.stable, found.release if found else None, found.stage if found else None


def chosen(here: ReleaseDesk) -> set[str]:
    return {here.choose(f"conversation {number}").release for number in range(60)}


def asking(release: str) -> Generation:
    return Generation("r1", (Turn("user", "?"),), 9, release)


def test_before_a_release_is_adopted_nobody_answers_and_the_reason_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with desk(tmp_path, ScriptedEngine(), Releases()) as here:
            await here.look(NOW)
            with pytest.raises(NoReleaseError, match="client sync"):
                here.choose("c")

    run(test)


def test_the_first_is_stable_at_once_and_the_second_goes_through_shadow_and_canary(tmp_path: Path) -> None:
    async def test() -> None:
        engine, source, notes = ScriptedEngine(), Releases(), Notes()
        async with desk(tmp_path, engine, source, notes=notes) as here:
            source.adopt("spring")
            await here.look(NOW)
            assert stage_of(here) == ("spring", None, None) and here.choose("c").digest == digest_of("spring")
            source.adopt("autumn")
            await here.look(NOW)
            assert stage_of(here) == ("spring", "autumn", Stage.SHADOW) and chosen(here) == {"spring"}
            answered(here, "spring")
            answered(here, "autumn", 1)
            await here.look(NOW + MINUTE)
            assert stage_of(here)[2] is Stage.SHADOW, "it has not shown enough"
            answered(here, "autumn", 1)
            await here.look(NOW + MINUTE)
            assert stage_of(here) == ("spring", "autumn", Stage.CANARY) and chosen(here) == {"spring", "autumn"}
            answered(here, "spring")
            answered(here, "autumn")
            await here.look(NOW + 2 * MINUTE)
            assert stage_of(here) == ("autumn", None, None) and here.rollout.previous == "spring"
            assert chosen(here) == {"autumn"} and set(engine.loaded) == {"spring", "autumn"}
        assert [(action, release) for action, release, _, by in notes if by == "service"] == [
            ("release-stable", "spring"),
            ("release-shadow", "autumn"),
            ("release-canary", "autumn"),
            ("release-stable", "autumn"),
        ]

    run(test)


def test_without_automatic_steps_the_gates_pass_but_an_operator_decides(tmp_path: Path) -> None:
    async def test() -> None:
        source = Releases()
        async with desk(tmp_path, ScriptedEngine(), source, replace(SETTINGS, automatic=False)) as here:
            source.adopt("spring")
            await here.look(NOW)
            source.adopt("autumn")
            await here.look(NOW)
            answered(here, "spring")
            answered(here, "autumn")
            await here.look(NOW)
            assert stage_of(here)[2] is Stage.SHADOW and here.view(NOW)["candidate"]["verdict"] == "pass"
            await here.promote("operator", NOW)
            assert stage_of(here)[2] is Stage.CANARY

    run(test)


def test_a_bad_one_is_given_up_by_itself_and_not_tried_again_until_somebody_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        engine, source, notes = ScriptedEngine(), Releases(), Notes()
        async with desk(tmp_path, engine, source, notes=notes) as here:
            await in_canary(here, source)
            answered(here, "spring", 20)
            answered(here, "autumn", 20, failed=True)
            await here.look(NOW)
            assert stage_of(here) == ("spring", None, None) and notes[-1][:2] == ("release-given-up", "autumn")
            assert here.view(NOW)["set_aside"] == "autumn"
            await until(lambda: engine.unloads == ["autumn"])
            for minutes in (1, 61, 200):
                await here.look(NOW + minutes * MINUTE)
            assert stage_of(here) == ("spring", None, None)
        async with desk(tmp_path, engine, source) as again:
            await again.look(NOW)
            assert stage_of(again) == ("spring", None, None), "nor after a restart"
            await again.promote("operator", NOW)
            assert stage_of(again) == ("spring", "autumn", Stage.SHADOW)
            assert again.rollout.candidate is not None and again.rollout.candidate.seen.answers == 0

    run(test)


def test_another_release_that_is_adopted_takes_the_candidates_place(tmp_path: Path) -> None:
    async def test() -> None:
        source = Releases()
        async with desk(tmp_path, ScriptedEngine(), source) as here:
            await in_canary(here, source)
            source.adopt("winter")
            await here.look(NOW)
            assert stage_of(here) == ("spring", "winter", Stage.SHADOW)

    run(test)


def test_a_rollback_of_the_clients_adoption_is_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        source = Releases()
        async with desk(tmp_path, ScriptedEngine(), source) as here:
            await in_canary(here, source)
            source.adopt("spring")
            await here.look(NOW)
            assert stage_of(here) == ("spring", None, None), "the candidate is given up"
            source.adopt("autumn")
            await here.look(NOW)
            await here.promote("operator", NOW)
            await here.promote("operator", NOW)
            assert here.rollout == Rollout("autumn", "spring")
            source.adopt("spring")
            await here.look(NOW)
            assert here.rollout == Rollout("spring") and chosen(here) == {"spring"}

    run(test)


def test_an_operator_goes_back_from_a_candidate_and_then_from_the_stable_one(tmp_path: Path) -> None:
    async def test() -> None:
        source = Releases()
        async with desk(tmp_path, ScriptedEngine(), source) as here:
            await in_canary(here, source)
            await here.promote("operator", NOW)
            source.adopt("winter")
            await here.look(NOW)
            await here.roll_back("operator", NOW)
            assert here.rollout == Rollout("autumn", "spring")
            await here.roll_back("operator", NOW)
            assert here.rollout == Rollout("spring")
            with pytest.raises(RolloutError):
                await here.roll_back("operator", NOW)
            assert read_rollout(tmp_path / "rollout.json").rollout == Rollout("spring")

    run(test)


@pytest.mark.parametrize("how", ["revoked", "changed"])
def test_a_stable_release_that_is_not_valid_any_more_gives_way_to_the_one_before(how: str, tmp_path: Path) -> None:
    async def test() -> None:
        engine, source, notes = ScriptedEngine(), Releases(), Notes()
        async with desk(tmp_path, engine, source, notes=notes) as here:
            await in_canary(here, source)
            await here.promote("operator", NOW)
            if how == "revoked":
                del source.valid["autumn"]
            else:
                source.valid["autumn"] = "f" * 64
            await here.look(NOW)
            assert here.rollout.stable == "spring" and chosen(here) == {"spring"}
            assert ("release-refused", "autumn") in [note[:2] for note in notes]
            assert "autumn" in here.problem if how == "revoked" else stage_of(here)[1:] == ("autumn", Stage.SHADOW)
            await until(lambda: engine.unloads == ["autumn"])

    run(test)


def test_a_revoked_release_without_one_before_leaves_nobody_and_comes_back_once_it_is_valid_again(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        source = Releases()
        async with desk(tmp_path, ScriptedEngine(), source) as here:
            source.adopt("spring")
            await here.look(NOW)
            del source.valid["spring"]
            await here.look(NOW)
            with pytest.raises(NoReleaseError, match="still sign"):
                here.choose("c")
            await here.look(NOW + MINUTE)
            assert "spring" in here.problem, "it is told as long as it is so"
            source.adopt("spring")
            await here.look(NOW + MINUTE)
            assert here.rollout == Rollout("spring") and here.problem == ""

    run(test)


def test_a_revoked_candidate_and_a_revoked_one_before_are_dropped_and_the_stable_one_stays(tmp_path: Path) -> None:
    async def test() -> None:
        source = Releases()
        async with desk(tmp_path, ScriptedEngine(), source) as here:
            await in_canary(here, source)
            await here.promote("operator", NOW)
            source.adopt("winter")
            await here.look(NOW)
            del source.valid["winter"], source.valid["spring"]
            await here.look(NOW)
            assert here.rollout == Rollout("autumn")

    run(test)


def test_whoever_expires_is_found_within_the_hour_without_any_change_on_disk(tmp_path: Path) -> None:
    async def test() -> None:
        source = Releases()
        async with desk(tmp_path, ScriptedEngine(), source) as here:
            source.adopt("spring")
            await here.look(NOW)
            looked = source.looked["spring"]
            await here.look(NOW + 59 * MINUTE)
            assert source.looked["spring"] == looked, "nothing is hashed again while nothing changed"
            await here.look(NOW + 61 * MINUTE)
            assert source.looked["spring"] > looked

    run(test)


def test_an_adopted_release_that_cannot_be_verified_is_told_and_not_hashed_at_every_look(tmp_path: Path) -> None:
    async def test() -> None:
        source = Releases()
        async with desk(tmp_path, ScriptedEngine(), source) as here:
            source.adopt("spring")
            await here.look(NOW)
            source.adopted = "forged"
            for _ in range(3):
                await here.look(NOW)
                assert "forged" in here.problem and here.choose("c").release == "spring"
            assert source.looked["forged"] == 1

    run(test)


def test_a_restart_keeps_the_stage_what_was_seen_and_the_events(tmp_path: Path) -> None:
    async def test() -> None:
        engine, source = ScriptedEngine(), Releases()
        async with desk(tmp_path, engine, source) as here:
            await in_canary(here, source)
            answered(here, "autumn", 1)
            here.compared("autumn", agrees=True)
            here.probed("autumn", right=True)
            before = here.rollout
        async with desk(tmp_path, ScriptedEngine(), source) as again:
            assert again.rollout == before
            with pytest.raises(NoReleaseError):
                again.choose("c")
            await again.look(NOW)
            assert again.rollout == before and chosen(again) == {"spring", "autumn"}
            assert [event["action"] for event in again.view(NOW)["events"]] == [
                "release-canary",
                "release-shadow",
                "release-stable",
            ]

    run(test)


def test_a_damaged_file_refuses_the_start(tmp_path: Path) -> None:
    (tmp_path / "rollout.json").write_text("{}")
    with pytest.raises(RolloutFileError):
        ReleaseDesk(ScriptedEngine(), Releases(), tmp_path / "rollout.json", SETTINGS, lambda *_: None)


@pytest.mark.parametrize("trouble", [DownError("The engine is down.", 1.0), RuntimeError("CUDA out of memory")])
def test_an_engine_that_cannot_load_is_told_and_tried_again(trouble: Exception, tmp_path: Path) -> None:
    async def test() -> None:
        engine, source = ScriptedEngine(), Releases()
        async with desk(tmp_path, engine, source) as here:
            source.adopt("spring")
            engine.trouble = trouble
            await here.look(NOW)
            assert here.problem and here.rollout == Rollout()
            await here.look(NOW)
            engine.trouble = None
            await here.look(NOW)
            assert here.rollout == Rollout("spring") and here.problem == ""

    run(test)


def test_a_candidate_that_is_not_loaded_goes_no_further_and_answers_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        source = Releases()
        async with desk(tmp_path, ScriptedEngine(), source) as here:
            await in_canary(here, source)
            answered(here, "spring")
            answered(here, "autumn")
        down = ScriptedEngine()
        async with desk(tmp_path, down, source) as again:
            down.trouble = DownError("The engine is down.", 1.0)
            await again.look(NOW)
            assert stage_of(again) == ("spring", "autumn", Stage.CANARY)
            down.trouble = None
            await again.look(NOW)
            assert stage_of(again) == ("autumn", None, None)

    run(test)


def test_an_engine_that_lost_a_release_gets_it_again(tmp_path: Path) -> None:
    async def test() -> None:
        engine, source = ScriptedEngine(), Releases()
        async with desk(tmp_path, engine, source) as here:
            source.adopt("spring")
            await here.look(NOW)
            engine.loaded.clear()
            await here.look(NOW)
            assert engine.loads == ["spring"]
            here.doubt("spring")
            await here.look(NOW)
            assert engine.loads == ["spring", "spring"] and "spring" in engine.loaded
            await here.look(NOW)
            assert engine.loads == ["spring", "spring"]

    run(test)


def test_going_back_while_another_release_is_loaded_is_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        engine, source = ScriptedEngine(), Releases()
        async with desk(tmp_path, engine, source) as here:
            await in_canary(here, source)
            await here.promote("operator", NOW)
            engine.may_load.clear()
            source.adopt("winter")
            looking = asyncio.create_task(here.look(NOW))
            await until(lambda: engine.loads[-1] == "winter")
            await here.roll_back("operator", NOW)
            assert not looking.done() and here.rollout == Rollout("spring") and chosen(here) == {"spring"}
            engine.may_load.set()
            await looking
            assert stage_of(here) == ("spring", "winter", Stage.SHADOW)

    run(test)


def test_a_release_leaves_the_engine_once_what_it_says_is_said_and_comes_back_after(tmp_path: Path) -> None:
    async def test() -> None:
        gate = asyncio.Event()
        engine, source = ScriptedEngine(lambda _: [*pieces("a", "b")[:1], gate, *pieces("b")]), Releases()
        async with desk(tmp_path, engine, source) as here:
            await in_canary(here, source)
            answer = engine.generate(asking("autumn"))
            assert (await anext(answer)).text == "a"
            await here.roll_back("operator", NOW)
            assert here.loaded("autumn") is None and chosen(here) == {"spring"}
            coming = asyncio.create_task(here.promote("operator", NOW))
            await until(lambda: "autumn" in engine.leaving)
            assert engine.unloads == [] and engine.loads.count("autumn") == 1
            gate.set()
            assert (await anext(answer)).text == "b"
            await answer.aclose()
            await coming
            assert engine.unloads == ["autumn"] and engine.loads.count("autumn") == 2
            assert stage_of(here)[1:] == ("autumn", Stage.SHADOW) and "autumn" in engine.loaded

    run(test)


def test_what_cannot_be_written_is_told_and_stands_and_is_written_later(tmp_path: Path) -> None:
    async def test() -> None:
        source, folder = Releases(), tmp_path / "deep"
        async with desk(folder, ScriptedEngine(), source) as here:
            await in_canary(here, source)
            before = read_rollout(folder / "rollout.json")
            (folder / "rollout.json").rename(tmp_path / "kept")
            folder.rmdir()
            folder.write_text("no folder")
            await here.roll_back("operator", NOW)
            assert here.rollout == Rollout("spring") and "rollout.json" in here.problem
            await here.look(NOW)
            assert "rollout.json" in here.problem
            folder.unlink()
            await here.look(NOW)
            assert here.problem == "" and read_rollout(folder / "rollout.json").rollout == Rollout("spring")
            assert before.rollout != Rollout("spring")

    run(test)


def test_a_step_that_the_evidence_cannot_take_is_taken_and_noted_later_once_and_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        source, notes, works = Releases(), Notes(), [True]

        def note(*one: str) -> None:
            if not works[0]:
                raise FedBankError("Expected to write the evidence, got a full disk.")
            notes.append(one)  # type: ignore[arg-type]

        here = ReleaseDesk(ScriptedEngine(), source, tmp_path / "rollout.json", SETTINGS, note)
        await in_canary(here, source)
        works[0] = False
        await here.roll_back("operator", NOW)
        await here.promote("operator", NOW)
        assert stage_of(here)[1:] == ("autumn", Stage.SHADOW) and "full disk" in here.problem
        works[0] = True
        await here.look(NOW)
        await here.look(NOW)
        actions = ["release-stable", "release-shadow", "release-canary", "release-given-up", "release-shadow"]
        assert [one[0] for one in notes] == actions and notes[-1][3] == "operator" and here.problem == ""
        await here.close()

    run(test)


def test_the_view_is_json_and_has_what_an_operator_needs(tmp_path: Path) -> None:
    async def test() -> None:
        source = Releases()
        async with desk(tmp_path, ScriptedEngine(), source) as here:
            assert here.view(NOW)["stable"] is None and here.view(NOW)["candidate"] is None
            await in_canary(here, source)
            found = json.loads(json.dumps(here.view(NOW)))
            assert found["stable"] == {"release": "spring", "digest": digest_of("spring"), "loaded": True}
            candidate = found["candidate"]
            assert (candidate["release"], candidate["stage"], candidate["share"]) == ("autumn", "canary", 0.5)
            assert candidate["verdict"] == "wait" and "0 of 2 answers" in candidate["lines"]
            assert found["events"][0]["action"] == "release-canary" and found["problem"] == ""

    run(test)


def test_an_outage_of_the_engine_is_not_the_candidates_fault(tmp_path: Path) -> None:
    async def test() -> None:
        source = Releases()
        settings = replace(SETTINGS, gates=gates(20, slowdown=1.5))
        async with desk(tmp_path, ScriptedEngine(), source, settings) as here:
            await in_canary(here, source)
            answered(here, "spring", 20)
            answered(here, "spring", 2000, failed=True)
            answered(here, "autumn", 30)
            await here.look(NOW)
            assert here.rollout.stable == "autumn", "2000 failures of the stable one made nobody slow"

    run(test)
