"""Answers that nobody sees: they are compared, never shown or kept, few at once, and give way to customers."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from scripted_service import NOW, ScriptedEngine, Step, World, asker, gates, pieces, run, signed, until, world

from fedbank.serving.answering import Question
from fedbank.serving.engines.interface import BACKGROUND, INTERACTIVE, BusyError, DownError, Generation, RequestError
from fedbank.serving.rollout.desk import RolloutSettings
from fedbank.serving.rollout.mirroring import Pace, Probe
from fedbank.serving.rollout.stages import Candidate, Tally

SETTINGS = RolloutSettings(shadow_share=1.0, canary_share=1.0, automatic=False, gates=gates(2))
PROBES = (Probe("Is it insured?", "yes"), Probe("保本吗？", "不保本"))


def candidate(here: World) -> Candidate:
    found = here.desk.rollout.candidate
    assert found is not None
    return found


def seen(here: World) -> Tally:
    return candidate(here).seen


async def ask(here: World, times: int = 1) -> list[str]:
    return [(await here.answering.answer(asker(), Question(f"question {number}"))).text for number in range(times)]


def mirrored(engine: ScriptedEngine) -> list[Generation]:
    return [one for one in engine.asked if one.priority == BACKGROUND]


def test_in_the_shadow_the_candidate_answers_copies_that_nobody_sees_and_nothing_keeps(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine, settings=SETTINGS) as here:
            await here.adopted("autumn")
            said = await ask(here, 3)
            await until(lambda: seen(here).compared == 3)
            assert all("autumn" not in text and "spring" in text for text in said)
            assert not any("autumn" in one.answer or one.release == "autumn" for one in here.kept("C-1"))
            assert len(here.entries()) == 3 and here.monitor.traffic(NOW)["now"]["answers"] == 3
            assert seen(here).answers == 3
            assert [(one.release, one.turns[-1].text) for one in mirrored(engine)] == [
                ("autumn", f"question {number}") for number in range(3)
            ]

    run(test)


def test_a_copy_is_asked_exactly_what_was_asked_and_its_personal_data_stay_masked(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine, settings=SETTINGS, system="Be brief.") as here:
            await here.adopted("autumn")
            await here.answering.answer(asker(), Question("my mobile is 13812345678", max_tokens=7))
            await until(lambda: seen(here).compared)
            original, copy = engine.asked
            assert copy.turns == original.turns and copy.max_new_tokens == 7 and original.priority == INTERACTIVE
            assert "13812345678" not in copy.turns[-1].text

    run(test)


def test_answers_that_differ_count_against_the_candidate(tmp_path: Path) -> None:
    def says(asked: Generation) -> Sequence[Step]:
        return pieces("本产品不保本。" if asked.release == "autumn" else "本产品保本。")

    async def test() -> None:
        async with world(tmp_path, ScriptedEngine(says), settings=SETTINGS) as here:
            await here.adopted("autumn")
            await ask(here, 2)
            await until(lambda: seen(here).compared == 2)
            assert seen(here).agreed == 0

    run(test)


def test_as_canary_its_answers_are_compared_with_the_stable_ones(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine, settings=SETTINGS) as here:
            await here.adopted("autumn")
            await here.desk.promote("operator", NOW)
            said = await ask(here, 2)
            await until(lambda: seen(here).compared == 2)
            assert all("autumn" in text for text in said)
            assert {one.release for one in mirrored(engine)} == {"spring"}
            assert candidate(here).stable_seen.answers == 2

    run(test)


def test_few_copies_run_at_once_and_the_rest_is_left_out(tmp_path: Path) -> None:
    async def test() -> None:
        gate = asyncio.Event()
        engine = ScriptedEngine(lambda asked: [gate, *signed("x")] if asked.release == "autumn" else signed("x"))
        async with world(tmp_path, engine, settings=SETTINGS) as here:
            await here.adopted("autumn")
            await ask(here, 9)
            await until(lambda: engine.running["autumn"] == 4)
            assert len(mirrored(engine)) == 4
            gate.set()
            await until(lambda: seen(here).compared == 4)
            await ask(here, 1)
            await until(lambda: seen(here).compared == 5)

    run(test)


@pytest.mark.parametrize(
    ("error", "failures"),
    [(BusyError("Full.", 1.0), 0), (RequestError("Not loaded."), 0), (DownError("Down.", 1.0), 1)],
)
def test_a_copy_that_fails_is_compared_with_nothing_and_counts_if_it_is_the_releases_fault(
    error: Exception, failures: int, tmp_path: Path
) -> None:
    async def test() -> None:
        engine = ScriptedEngine(lambda asked: [error] if asked.release == "autumn" else signed("x"))
        async with world(tmp_path, engine, settings=SETTINGS) as here:
            await here.adopted("autumn")
            assert await ask(here, 1)
            await until(lambda: len(mirrored(engine)) == 1 and not engine.running["autumn"])
            await here.mirror.close()
            assert (seen(here).failures, seen(here).answers, seen(here).compared) == (failures, failures, 0)

    run(test)


def test_a_release_that_the_engine_lost_is_loaded_again_because_a_copy_was_refused(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine, settings=SETTINGS) as here:
            await here.adopted("autumn")
            del engine.loaded["autumn"]
            await ask(here, 1)
            await until(lambda: len(mirrored(engine)) == 1)
            await here.mirror.close()
            await here.desk.look(NOW)
            assert "autumn" in engine.loaded

    run(test)


def test_every_probe_question_is_asked_once_in_each_stage_and_a_wrong_answer_is_seen(tmp_path: Path) -> None:
    def says(asked: Generation) -> Sequence[Step]:
        return pieces("Oh yes." if asked.turns[-1].text == "Is it insured?" else "保本。")

    async def test() -> None:
        engine = ScriptedEngine(says)
        async with world(tmp_path, engine, settings=SETTINGS, probes=PROBES) as here:
            here.mirror.probe()
            await here.adopted("autumn")
            for _ in range(3):
                here.mirror.probe()
                await until(lambda: seen(here).probes == 2)
            assert seen(here).probes_right == 1 and len(engine.asked) == 2
            assert {(one.release, one.priority) for one in engine.asked} == {("autumn", BACKGROUND)}
            await here.desk.promote("operator", NOW)
            here.mirror.probe()
            await until(lambda: seen(here).probes == 2)
            assert len(engine.asked) == 4 and here.entries() == []

    run(test)


def test_a_probe_that_the_engine_could_not_answer_is_asked_again(tmp_path: Path) -> None:
    async def test() -> None:
        broken = [True]
        engine = ScriptedEngine(lambda _: [DownError("Down.", 1.0)] if broken[0] else pieces("yes 不保本"))
        async with world(tmp_path, engine, settings=SETTINGS, probes=PROBES) as here:
            await here.adopted("autumn")
            here.mirror.probe()
            await until(lambda: seen(here).failures == 1)
            assert seen(here).probes == 0
            broken[0] = False
            await until(lambda: here.mirror.probe() or seen(here).probes == 2)
            assert seen(here).probes_right == 2

    run(test)


def test_closing_ends_copies_and_probes_and_frees_their_places(tmp_path: Path) -> None:
    async def test() -> None:
        never = asyncio.Event()
        engine = ScriptedEngine(lambda asked: [never] if asked.release == "autumn" else signed("x"))
        async with world(tmp_path, engine, settings=SETTINGS, probes=PROBES) as here:
            await here.adopted("autumn")
            await ask(here, 1)
            here.mirror.probe()
            await until(lambda: engine.running["autumn"] == 2)
            await here.mirror.close()
            assert engine.running["autumn"] == 0 and seen(here) == Tally()

    run(test)


def test_a_pace_is_of_tokens_after_the_first() -> None:
    pace = Pace()
    pace.came(1, 10.0)
    assert pace.ms == 0.0
    pace.came(4, 10.2)
    assert round(pace.ms) == 5000
