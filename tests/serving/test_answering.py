"""One question on its whole way: what is shown is kept, what is not kept is not told, and nobody sees another's."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import pytest
from scripted_service import (
    CHANNEL,
    NOW,
    WORDS,
    ScriptedEngine,
    Step,
    World,
    asker,
    gates,
    pieces,
    run,
    signed,
    until,
    world,
)

from fedbank.data.redact import RefusedTextError
from fedbank.evidence.errors import EvidenceError
from fedbank.serving.answering import Answered, Delta, Question, QuestionError, Started
from fedbank.serving.engines.interface import BusyError, DownError, Generation, Piece, RequestError, Turn
from fedbank.serving.pipeline import Notice, Passage, Settled, WithheldError
from fedbank.serving.rollout.desk import NoReleaseError, RolloutSettings
from fedbank.serving.sharing.sessions import SessionLimits, UnknownSessionError
from fedbank.serving.store.audit import AuditError
from fedbank.serving.store.database import RecordsError

CANARY = RolloutSettings(canary_share=1.0, automatic=False, gates=gates(2))
Events = AsyncGenerator[Started | Delta | Answered]
FIRST_TWO = ("First sentence. ", "Second sentence. ")


async def in_canary(here: World) -> None:
    await here.adopted("autumn")
    await here.desk.promote("operator", NOW)


async def text_of(events: Events) -> str:
    return "".join([event.text async for event in events if isinstance(event, Delta)])


async def first_delta(events: Events) -> str:
    assert isinstance(await anext(events), Started)
    found = await anext(events)
    assert isinstance(found, Delta)
    return found.text


def waiting(gate: asyncio.Event) -> list[Step]:
    return [*pieces(*FIRST_TWO, "end")[:2], gate, *pieces("Third. ")]


class Refusing:
    """A later stage that withholds the second sentence and what follows."""

    name, version = "compliance", "1"

    async def incoming(self, passage: Passage) -> Passage:
        return passage.filtered(self)

    async def feed(self, sentence: str) -> str:
        if "Second" in sentence:
            raise WithheldError(Notice("compliance", "不能提供。", "Cannot be said."))
        return sentence

    async def end(self) -> str:
        return ""


class Scripted:
    name, version = "script", "1"

    async def incoming(self, passage: Passage) -> Settled:
        return Settled(passage, "Please call 95588.")


def test_an_answer_is_told_kept_and_in_the_evidence_under_one_number(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, ScriptedEngine()) as here:
            async with aclosing(here.answering.ask(asker(), Question("我要开户，手机13812345678"))) as found:
                events = [event async for event in found]
            started, told = events[0], events[-1]
            assert isinstance(started, Started) and isinstance(told, Answered)
            assert told.text == "".join(event.text for event in events if isinstance(event, Delta))
            assert told.text == "".join(f"spring says word {number} now. " for number in range(WORDS))
            assert (told.release, told.finish, told.prompt_tokens, told.answer_tokens) == ("spring", "stop", 10, WORDS)
            assert [notice.code for notice in told.notices] == ["personal-data-masked", "ai-generated"]
            assert told.aigc["ProduceID"] == told.request_id == started.request_id
            (kept,), (entry,) = here.kept("C-1"), here.entries()
            assert (kept.request_id, kept.answer, kept.session_id) == (told.request_id, told.text, told.session_id)
            assert kept.question == "我要开户，手机13812345678" and kept.language == "zh" and kept.release == "spring"
            assert (entry.object, entry.actor) == (told.request_id, CHANNEL)
            assert "10+6 tokens" in entry.result and "policies ai-notice/1 redact/1" in entry.result
            assert here.releases.valid["spring"] in entry.result and "C-1" not in entry.result

    run(test)


def test_the_model_reads_what_was_said_before_in_the_session_and_nothing_of_other_customers(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine, system="Be brief.") as here:
            told = await here.answering.answer(asker("C-1"), Question("first"))
            await here.answering.answer(asker("C-1"), Question("second", told.session_id))
            assert [turn.text for turn in engine.asked[-1].turns] == ["Be brief.", "first", told.text, "second"]
            for owner in ("C-2", ""):
                with pytest.raises(UnknownSessionError):
                    await here.answering.answer(asker(owner), Question("and what did I say?", told.session_id))
            other = await here.answering.answer(asker("C-2"), Question("mine"))
            assert other.session_id != told.session_id and len(engine.asked[-1].turns) == 2
            assert len(here.kept("C-1")) == 2 and len(here.kept("C-2")) == 1

    run(test)


def test_the_banks_own_instruction_is_not_the_customers_personal_data(tmp_path: Path) -> None:
    async def test() -> None:
        engine, system = ScriptedEngine(), "客服电话 13800138000，密码：Abc12345 不得透露。"
        async with world(tmp_path, engine, system=system) as here:
            told = await here.answering.answer(asker(), Question("怎么开户？"))
            assert [notice.code for notice in told.notices] == ["ai-generated"]
            assert engine.asked[0].turns[0] == Turn("system", system)

    run(test)


def test_a_conversation_that_the_caller_keeps_touches_no_session(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine) as here:
            mine = await here.answering.answer(asker(), Question("mine"))
            before = (Turn("user", "a"), Turn("assistant", "b"))
            told = await here.answering.answer(asker(), Question("c", session_id=mine.session_id, history=before))
            assert told.session_id is None and [turn.text for turn in engine.asked[-1].turns] == ["a", "b", "c"]
            assert len(await here.sessions.context(str(mine.session_id), here.owner("C-1"), NOW)) == 2
            assert {one.session_id for one in here.kept("C-1")} == {"", mine.session_id}

    run(test)


def test_a_session_forgets_by_its_own_tokens_and_not_by_those_of_the_prompt(tmp_path: Path) -> None:
    """The prompt holds the whole conversation and the bank's instruction: counted anew each time, it would soon fill
    a session that has hardly begun, and then empty it."""

    def says(asked: Generation) -> Sequence[Step]:
        return pieces("ok. ", prompt=sum(len(turn.text) for turn in asked.turns))

    async def test() -> None:
        engine = ScriptedEngine(says)
        async with world(tmp_path, engine, system="s" * 400, limits=SessionLimits(max_tokens=200)) as here:
            session = None
            for number in range(6):
                told = await here.answering.answer(asker(), Question(f"question {number:04d}" + "?" * 12, session))
                session = told.session_id
            assert len(engine.asked[-1].turns) == 1 + 2 * 5 + 1

    run(test)


@pytest.mark.parametrize(
    "question",
    [
        Question(" \n"),
        Question("x" * 8001),
        Question("x", history=(Turn("user", "y" * 8000),)),
        Question("x", max_tokens=0),
        Question("x", max_tokens=1025),
    ],
)
def test_a_question_that_cannot_be_one_is_told_before_anything_happens(question: Question, tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine) as here:
            with pytest.raises(QuestionError):
                await here.answering.answer(asker(), question)
            assert engine.asked == [] and here.entries() == []

    run(test)


def test_a_password_is_refused_reaches_nobody_and_is_in_the_evidence_as_refused_only(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine) as here:
            with pytest.raises(RefusedTextError):
                await here.answering.answer(asker(), Question("my password is hunter22"))
            assert engine.asked == [] and here.kept("C-1") == [] and here.outcomes() == ["refused"]
            assert "release none" in here.entries()[0].result
            assert here.monitor.traffic(NOW)["now"]["refused"] == 1
            assert b"hunter22" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())

    run(test)


def test_without_a_release_no_session_begins_and_the_evidence_says_failed(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, ScriptedEngine(), first=None) as here:
            with pytest.raises(NoReleaseError):
                await here.answering.answer(asker(), Question("hello"))
            assert here.outcomes() == ["failed"]
            assert await here.sessions.forget(here.owner("C-1")) == 0

    run(test)


def test_what_a_stage_settles_needs_no_model_and_no_release(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine, first=None, stages=(Scripted(),)) as here:
            async with aclosing(here.answering.ask(asker(), Question("hello"))) as found:
                events = [event async for event in found]
            deltas = [event.text for event in events if isinstance(event, Delta)]
            assert deltas == ["Please call 95588."] and engine.asked == []
            told = events[-1]
            assert isinstance(told, Answered) and (told.release, told.prompt_tokens) == ("", 0)
            assert here.kept("C-1")[0].answer == "Please call 95588." and "release none" in here.entries()[0].result

    run(test)


def test_a_stage_withholds_the_rest_the_engine_is_free_and_what_was_shown_is_kept(tmp_path: Path) -> None:
    async def test() -> None:
        never = asyncio.Event()
        engine = ScriptedEngine(lambda _: [Piece("First sentence. Second sentence. Th", 9), never])
        async with world(tmp_path, engine, stages=(Refusing(),)) as here:
            told = await here.answering.answer(asker(), Question("hello"))
            assert told.text == "First sentence." and [one.code for one in told.notices] == ["compliance"]
            assert engine.running["spring"] == 0 and here.kept("C-1")[0].answer == "First sentence."
            assert here.outcomes() == ["answered"]

    run(test)


def test_an_answer_that_is_cut_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine(lambda _: [Piece("One. Tw", 2, "length", 5)])
        async with world(tmp_path, engine) as here:
            told = await here.answering.answer(asker(), Question("hello", max_tokens=2))
            assert told.finish == "length" and told.notices[-1].code == "answer-cut"
            assert engine.asked[0].max_new_tokens == 2

    run(test)


def test_a_stage_whose_name_no_evidence_can_hold_is_told_at_the_start(tmp_path: Path) -> None:
    class Long:
        name, version = "compliance-rules", "1"

        async def incoming(self, passage: Passage) -> Passage:
            return passage

    async def test() -> None:
        with pytest.raises(AuditError):
            async with world(tmp_path, ScriptedEngine(), stages=(Long(),)):
                pass

    run(test)


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_a_customer_who_leaves_frees_the_engine_and_what_was_shown_is_kept(how: str, tmp_path: Path) -> None:
    async def test() -> None:
        never = asyncio.Event()
        engine = ScriptedEngine(lambda _: waiting(never))
        async with world(tmp_path, engine) as here:
            shown: list[str] = []

            async def reads() -> None:
                async with aclosing(here.answering.ask(asker(), Question("hello"))) as events:
                    shown.append(await first_delta(events))
                    while how == "cancelled":
                        shown.append((await anext(events)).text)  # type: ignore[union-attr]

            task = asyncio.create_task(reads())
            await until(lambda: len(shown) == (2 if how == "cancelled" else 1))
            if how == "cancelled":
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled() == (how == "cancelled") and engine.running["spring"] == 0
            assert [one.answer for one in here.kept("C-1")] == ["".join(shown)] and here.outcomes() == ["cancelled"]
            assert here.desk.rollout.candidate is None and here.monitor.traffic(NOW)["now"]["answers"] == 0

    run(test)


def test_whoever_leaves_before_a_word_leaves_an_entry_and_no_exchange(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, ScriptedEngine()) as here:
            async with aclosing(here.answering.ask(asker(), Question("hello"))) as events:
                await anext(events)
            assert here.kept("C-1") == [] and here.outcomes() == ["cancelled"]

    run(test)


@pytest.mark.parametrize("error", [DownError("Down.", 2.0), BusyError("Full.", 1.0), RequestError("Too long.")])
def test_an_engine_that_fails_is_told_as_it_is_and_recorded_as_failed(error: Exception, tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine(lambda _: [error])
        async with world(tmp_path, engine) as here:
            with pytest.raises(type(error)):
                await here.answering.answer(asker(), Question("hello"))
            assert here.outcomes() == ["failed"] and here.kept("C-1") == []
            assert here.monitor.traffic(NOW)["now"]["failures"] == 1

    run(test)


def test_an_engine_that_fails_amid_an_answer_leaves_what_was_shown(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine(lambda _: [*pieces(*FIRST_TWO, "x")[:2], DownError("Down.", 1.0)])
        async with world(tmp_path, engine) as here:
            events = here.answering.ask(asker(), Question("hello"))
            shown = [await first_delta(events)]
            with pytest.raises(DownError):
                async for event in events:
                    shown.append(getattr(event, "text", ""))
            assert [one.answer for one in here.kept("C-1")] == ["".join(shown)] and here.outcomes() == ["failed"]

    run(test)


@pytest.mark.parametrize("before", [(), (Piece("", 1),)])
def test_a_canary_that_fails_before_its_first_word_gives_way_to_the_stable_release(
    before: tuple[Piece, ...], tmp_path: Path
) -> None:
    def says(asked: Generation) -> Sequence[Step]:
        return [*before, DownError("Down.", 1.0)] if asked.release == "autumn" else signed(asked.release)

    async def test() -> None:
        engine = ScriptedEngine(says)
        async with world(tmp_path, engine, settings=CANARY) as here:
            await in_canary(here)
            told = await here.answering.answer(asker(), Question("hello"))
            assert told.release == "spring" and "autumn" not in told.text and told.answer_tokens == WORDS
            found = here.desk.rollout.candidate
            assert found is not None and (found.seen.failures, found.stable_seen.failures) == (1, 0)
            assert here.releases.valid["spring"] in here.entries()[0].result and here.kept("C-1")[0].release == "spring"

    run(test)


def test_a_canary_that_fails_after_its_first_word_is_not_continued_by_another(tmp_path: Path) -> None:
    def says(asked: Generation) -> Sequence[Step]:
        words = signed(asked.release)
        return [*words[:2], DownError("Down.", 1.0)] if asked.release == "autumn" else words

    async def test() -> None:
        async with world(tmp_path, ScriptedEngine(says), settings=CANARY) as here:
            await in_canary(here)
            with pytest.raises(DownError):
                await here.answering.answer(asker(), Question("hello"))
            assert "spring" not in here.kept("C-1")[0].answer

    run(test)


def test_while_releases_change_under_load_nothing_fails_and_no_answer_mixes_two(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, ScriptedEngine(), settings=CANARY) as here:
            done: list[Answered] = []

            async def customer(number: int) -> None:
                session = None
                for _ in range(6):
                    told = await here.answering.answer(asker(f"C-{number}"), Question("hello", session))
                    session = told.session_id
                    done.append(told)

            async def switches() -> None:
                for number in range(5):
                    await here.adopted(f"release-{number}")
                    await here.desk.promote("operator", NOW)
                    await asyncio.sleep(0)
                    if number % 2:
                        await here.desk.roll_back("operator", NOW)
                    else:
                        await here.desk.promote("operator", NOW)

            await asyncio.gather(*(customer(number) for number in range(8)), switches())
            assert len(done) == 48 and len({told.release for told in done}) > 1
            for told in done:
                assert told.text == "".join(f"{told.release} says word {number} now. " for number in range(WORDS))
            assert here.outcomes() == ["answered"] * 48

    run(test)


def test_a_store_that_cannot_be_written_ends_the_answer_without_its_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, ScriptedEngine(), patience_s=0.05) as here:
            other = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            seen: list[object] = []
            with pytest.raises(RecordsError) as told:
                async for event in here.answering.ask(asker(), Question("hello")):
                    seen.append(event)
            assert told.value.retry_after_s and not any(isinstance(event, Answered) for event in seen)
            assert here.entries() == [], "no evidence speaks of an answer that the bank does not have"
            assert here.monitor.traffic(NOW)["now"] | {"at": ""} == {
                "at": "",
                "answers": 0,
                "failures": 1,
                "refused": 0,
                "p50_ms": None,
                "p95_ms": None,
            }
            other.rollback()
            other.close()
            assert (await here.answering.answer(asker(), Question("again"))).text

    run(test)


def test_evidence_that_cannot_be_written_ends_the_answer_without_its_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, ScriptedEngine()) as here:
            (tmp_path / "evidence.jsonl").mkdir()
            with pytest.raises(EvidenceError):
                await here.answering.answer(asker(), Question("hello"))
            assert here.monitor.traffic(NOW)["now"]["failures"] == 1
            (tmp_path / "evidence.jsonl").rmdir()

    run(test)


def test_whoever_cancels_sees_it_cancelled_also_if_nothing_could_be_kept(tmp_path: Path) -> None:
    async def test() -> None:
        never = asyncio.Event()
        async with world(tmp_path, ScriptedEngine(lambda _: waiting(never)), patience_s=0.05) as here:
            events = here.answering.ask(asker(), Question("hello"))
            await first_delta(events)
            other = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            task = asyncio.create_task(text_of(events))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() and here.monitor.traffic(NOW)["now"]["failures"] == 1
            other.rollback()
            other.close()

    run(test)


def test_closing_the_service_waits_for_what_is_being_kept(tmp_path: Path) -> None:
    async def test() -> None:
        never = asyncio.Event()
        async with world(tmp_path, ScriptedEngine(lambda _: waiting(never))) as here:
            events = here.answering.ask(asker(), Question("hello"))
            await first_delta(events)
            closing = asyncio.create_task(events.aclose())
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            await here.answering.close()
            assert here.outcomes() == ["cancelled"] and len(here.kept("C-1")) == 1

    run(test)


def test_the_real_engine_answers_and_is_free_again_after_a_customer_left(tmp_path: Path) -> None:
    from serving_models import local_tiny, write_tiny_adapter  # late: the other tests need no torch

    from fedbank.serving.engines.transformers_engine import TransformersEngine

    write_tiny_adapter(tmp_path / "spring")
    write_tiny_adapter(tmp_path / "autumn", seed=12)
    adapters = {name: tmp_path / name for name in ("spring", "autumn")}

    async def test() -> None:
        engine = TransformersEngine(local_tiny())
        async with world(tmp_path, engine, settings=CANARY, adapters=adapters) as here:
            asked = Question("How do I open an account?", max_tokens=48)
            first = await here.answering.answer(asker(), asked)
            assert first.text and first.prompt_tokens > 0 and first.answer_tokens > 0
            assert (await here.answering.answer(asker(), asked)).text == first.text
            events = here.answering.ask(asker(), Question("Why?", max_tokens=400))
            await anext(events)
            await events.aclose()
            while (await engine.health()).running:
                await asyncio.sleep(0.005)
            await in_canary(here)
            told = await here.answering.answer(asker(), asked)
            assert told.release == "autumn" and told.text != first.text
            await here.desk.roll_back("operator", NOW)
            again = await here.answering.answer(asker(), asked)
            assert again.release == "spring" and again.text == first.text

    run(test, 120)


def test_no_repr_of_a_question_or_an_event_shows_what_was_said() -> None:
    said = [Question("秘密"), Delta("秘密"), Question("x", history=(Turn("user", "秘密"),)), asker("秘密")]
    assert "秘密" not in repr(said)


def test_the_hours_of_a_session_are_the_services(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, ScriptedEngine(), limits=SessionLimits(idle=timedelta(0))) as here:
            told = await here.answering.answer(asker(), Question("hello"))
            with pytest.raises(UnknownSessionError):
                await here.answering.answer(asker(), Question("again", told.session_id))

    run(test)


@pytest.mark.parametrize("stateless", [False, True])
def test_what_is_being_answered_to_a_customer_who_is_erased_is_not_kept_behind_the_erasure(
    stateless: bool, tmp_path: Path
) -> None:
    async def test() -> None:
        gate = asyncio.Event()
        async with world(tmp_path, ScriptedEngine(lambda _: waiting(gate))) as here:
            theirs = here.answering.ask(asker("C-1"), Question("hello", history=() if stateless else None))
            others = here.answering.ask(asker("C-2"), Question("hello"))
            await first_delta(theirs)
            await first_delta(others)
            await here.answering.forget(here.owner("C-1"))
            gate.set()
            assert await text_of(theirs) and await text_of(others)
            assert here.kept("C-1") == [] and len(here.kept("C-2")) == 1 and here.outcomes() == ["answered"] * 2

    run(test)


def test_an_erasure_waits_for_what_is_being_written(tmp_path: Path) -> None:
    async def test() -> None:
        never = asyncio.Event()
        async with world(tmp_path, ScriptedEngine(lambda _: waiting(never))) as here:
            events = here.answering.ask(asker(), Question("hello"))
            await first_delta(events)
            leaving = asyncio.create_task(events.aclose())
            await until(lambda: any(one.keeping for one in here.answering._running))
            await here.answering.forget(here.owner("C-1"))
            assert here.outcomes() == ["cancelled"]
            await leaving

    run(test)
