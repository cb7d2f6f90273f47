"""Stages around the model: in order on the way in, in reverse on the way out, and nothing unfiltered is shown."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from fedbank.serving.engines.interface import Turn
from fedbank.serving.pipeline import (
    Filter,
    Notice,
    Outgoing,
    Passage,
    Pipeline,
    Settled,
    WithheldError,
    language_of,
    sentence_end,
)

BANNED = Notice("compliance", "该内容不能提供。", "This cannot be said.")
QUESTION = Passage("r1", "zh", (Turn("user", "怎么开户？"),))


@dataclass
class Marking:
    """Marks the question on its way in and every sentence on its way out, and remembers what it saw."""

    name: str
    version: str = "1"
    saw: list[str] = field(default_factory=list)

    async def incoming(self, passage: Passage) -> Passage:
        turns = tuple(Turn(turn.role, f"{turn.text}{self.name}") for turn in passage.turns)
        return Passage(passage.request_id, passage.language, turns, filters=passage.filters).filtered(self)

    async def feed(self, sentence: str) -> str:
        self.saw.append(sentence)
        return f"({self.name}:{sentence})" if sentence else ""

    async def end(self) -> str:
        return f"[{self.name} ends]"


class Compliance:
    """A later stage: withholds from the first forbidden sentence on. It holds one sentence back, to see the next."""

    name, version = "compliance", "2"

    async def incoming(self, passage: Passage) -> Passage:
        return passage.filtered(_Holding())


class _Holding:
    def __init__(self) -> None:
        self._held = ""

    async def feed(self, sentence: str) -> str:
        if "稳赚" in sentence:
            raise WithheldError(BANNED)
        shown, self._held = self._held, sentence
        return shown

    async def end(self) -> str:
        return self._held


class Script:
    """Knows the answer itself."""

    name, version = "script", "1"

    async def incoming(self, passage: Passage) -> Settled:
        return Settled(passage, "请拨打客服。")


class Upper:
    async def feed(self, sentence: str) -> str:
        return sentence.upper()

    async def end(self) -> str:
        return ""


async def shown(filters: Sequence[Filter], pieces: Sequence[str]) -> str:
    """All that a customer sees, also if the rest is withheld."""
    outgoing, parts = Outgoing(filters), list[str]()
    try:
        for piece in pieces:
            parts.append(await outgoing.feed(piece))
        parts.append(await outgoing.end())
    except WithheldError as error:
        parts.append(error.shown)
    return "".join(parts)


def cuts(text: str, seed: int) -> list[str]:
    rng = random.Random(seed)
    places = sorted(rng.sample(range(1, len(text)), min(len(text) - 1, rng.randrange(0, 20))))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def test_stages_see_the_question_in_order_and_the_answer_in_reverse() -> None:
    first, second = Marking("a"), Marking("b")
    passage = asyncio.run(Pipeline((first, second)).incoming(QUESTION))
    assert isinstance(passage, Passage) and passage.turns[-1].text == "怎么开户？ab"
    said = asyncio.run(shown(passage.filters, ["好。", "行。"]))
    assert second.saw == ["好。", "行。"], "the last stage sees the model's words first"
    assert said == "(a:(b:好。))(a:(b:行。))(a:[b ends])[a ends]"


def test_a_stage_that_settles_is_the_last_and_the_filters_before_it_apply() -> None:
    first, last = Marking("a"), Marking("z")
    found = asyncio.run(Pipeline((first, Script(), last)).incoming(QUESTION))
    assert isinstance(found, Settled) and found.text == "请拨打客服。"
    assert asyncio.run(shown(found.passage.filters, [found.text])) == "(a:请拨打客服。)[a ends]"
    assert last.saw == []


def test_policies_are_names_and_versions_and_no_name_stands_twice() -> None:
    assert Pipeline((Marking("a"), Compliance())).policies == {"a": "1", "compliance": "2"}
    with pytest.raises(ValueError, match="different names"):
        Pipeline((Marking("a"), Marking("a", "2")))


def test_nothing_is_shown_before_its_sentence_has_an_end() -> None:
    async def test() -> None:
        outgoing = Outgoing((Upper(),))
        assert await outgoing.feed("half a sen") == ""
        assert await outgoing.feed("tence.") == "", "a quotation mark may follow"
        assert await outgoing.feed(" next") == "HALF A SENTENCE."
        assert await outgoing.end() == " NEXT"

    asyncio.run(test())


@pytest.mark.parametrize("seed", range(40))
def test_what_is_shown_does_not_depend_on_how_the_pieces_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    words = ["存款", "保本吗", "2.10%", "a.b@c.cn", " ", "。", "！", "”", "\n", "ok. ", "x" * 300, "，", "稳赚不赔。"]
    text = "".join(rng.choices(words, k=40))

    async def test() -> None:
        filters = [(_Holding(), Upper()) for _ in range(3)]
        whole, once = await shown(filters[0], [text]), await shown(filters[1], list(text))
        assert whole == once == await shown(filters[2], cuts(text, seed))
        assert "稳赚" not in whole
        allowed = text.split("稳赚")[0].upper()
        assert allowed.startswith(whole), "only what stands before the forbidden sentence, in order"

    asyncio.run(test())


def test_a_stage_withholds_its_sentence_and_all_that_follows_but_not_what_was_fine() -> None:
    async def test() -> None:
        found = await Pipeline((Compliance(),)).incoming(QUESTION)
        assert isinstance(found, Passage)
        assert await shown(found.filters, ["第一句。第二句。稳", "赚不赔。第四句。"]) == "第一句。"
        outgoing = Outgoing((_Holding(),))
        with pytest.raises(WithheldError) as withheld:
            await outgoing.feed("好的。可以的。稳赚不赔。然后")
        assert withheld.value.notice is BANNED and withheld.value.shown == "好的。"
        assert "稳赚" not in str(withheld.value)

    asyncio.run(test())


def test_what_a_filter_holds_back_goes_through_the_filters_after_it() -> None:
    assert asyncio.run(shown((_Holding(), Upper()), ["abc. ", "def"])) == "ABC. DEF"


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("好的。", 0),
        ("好的。再", 3),
        ("“好的。”再", 5),
        ("Yes. No", 4),
        ("It is 2.10 yuan", 0),
        ("5. Bring", 0),
        ("one\ntwo", 4),
        ("x" * 240, 0),
        ("x" * 241, 240),
        ("x" * 100 + " " + "y" * 200, 101),
    ],
)
def test_where_a_sentence_ends(text: str, end: int) -> None:
    assert sentence_end(text) == end


def test_notices_stand_once_and_the_language_is_chinese_from_one_character_on() -> None:
    assert QUESTION.noted(BANNED).noted(BANNED).notices == (BANNED,)
    assert language_of("Please 帮忙") == "zh" and language_of("Please help") == "en"


def test_no_repr_shows_what_was_said() -> None:
    assert "开户" not in repr(QUESTION) and "客服" not in repr(Settled(QUESTION, "请拨打客服。"))
