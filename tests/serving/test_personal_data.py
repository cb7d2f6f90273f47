"""Personal data do not reach the model; each customer reads their own again, and nobody anybody else's."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from fedbank.data.redact import Kind, RefusedTextError
from fedbank.serving.engines.interface import Role, Turn
from fedbank.serving.personal_data import PersonalData, withhold
from fedbank.serving.pipeline import Language, Outgoing, Passage

PHONE, CARD, MAIL, ACCOUNT = "13812345678", "6222 0212 3456 7890 128", "zhang.wei@bank.cn", "账号 62220212345678"
LINE = "这是一段没有任何标点的很长的说明文字" * 20
"""Longer than any sentence, without a place to cut it at."""


def passage(*turns: tuple[Role, str], language: Language = "zh") -> Passage:
    return Passage("r1", language, tuple(Turn(role, text) for role, text in turns))


def masked(*turns: tuple[Role, str], stage: PersonalData | None = None, language: Language = "zh") -> Passage:
    return asyncio.run((stage or PersonalData()).incoming(passage(*turns, language=language)))


def shown(found: Passage, *pieces: str) -> str:
    async def through() -> str:
        outgoing = Outgoing(found.filters)
        return "".join([*[await outgoing.feed(piece) for piece in pieces], await outgoing.end()])

    return asyncio.run(through())


def digits(text: str) -> str:
    return "".join(char for char in text if char.isdecimal())


def test_the_question_and_the_history_are_masked_with_the_same_token_for_the_same_number() -> None:
    found = masked(
        ("user", f"我的手机号是{PHONE}"),
        ("assistant", f"您的手机 {PHONE} 已登记。"),
        ("user", f"把 {PHONE} 换成 {MAIL}"),
    )
    said = "".join(turn.text for turn in found.turns)
    assert PHONE not in said and MAIL not in said and said.count("〈手机号1〉") == 3 and "〈邮箱1〉" in said
    assert found.personal and [notice.code for notice in found.notices] == ["personal-data-masked"]


def test_a_question_without_personal_data_is_as_it_was() -> None:
    found = masked(("user", "三年定期利率是多少？"))
    assert found.turns[-1].text == "三年定期利率是多少？" and not found.personal and found.notices == ()


def test_what_another_stage_took_out_stays_personal() -> None:
    before = replace(passage(("user", "三年定期利率是多少？")), personal=True)
    assert asyncio.run(PersonalData().incoming(before)).personal


@pytest.mark.parametrize("cut", range(1, 8))
def test_the_customer_reads_their_own_number_again_also_from_a_token_that_comes_in_pieces(cut: int) -> None:
    found = masked(("user", f"我的手机号是{PHONE}"))
    token = "〈手机号1〉"
    assert shown(found, "将发送到" + token[:cut], token[cut:] + "。请查收。") == f"将发送到{PHONE}。请查收。"


def test_nobody_reads_what_another_customer_gave() -> None:
    masked(("user", f"我的手机号是{PHONE}"))
    other = masked(("user", "我的手机号是13987654321"))
    assert shown(other, "〈手机号1〉和〈手机号2〉。") == "13987654321和〈手机号〉。"
    assert shown(masked(("user", "你好")), "〈手机号1〉。") == "〈手机号〉。"


def test_kinds_that_the_policy_withholds_are_labels_in_the_answer() -> None:
    stage = PersonalData(restored={Kind.EMAIL})
    found = masked(("user", f"我的手机号是{PHONE}，邮箱{MAIL}"), stage=stage)
    assert shown(found, "〈手机号1〉，〈邮箱1〉。") == f"〈手机号〉，{MAIL}。"


MEMORISED = {
    "a mobile number": PHONE,
    "in groups": "138 1234 5678",
    "with hidden characters": "138\u200b1234\u200b5678",
    "in full width": "１３８１２３４５６７８",
    "read aloud": "幺三八幺二三四五六七八",
    "a bank card": CARD,
    "an account": ACCOUNT,
    "an e-mail address": MAIL,
    "an IBAN": "GB82 WEST 1234 5698 7654 32",
    "a number plate": "京A12345",
}


@pytest.mark.parametrize("name", MEMORISED)
def test_a_number_that_the_model_remembers_is_never_shown(name: str) -> None:
    number = MEMORISED[name]
    said = shown(masked(("user", "你好")), f"请联系：{number}。谢谢。")
    assert number not in said and "〈" in said and said.endswith("谢谢。")
    assert len(digits(said)) < 4


@pytest.mark.parametrize("name", MEMORISED)
def test_nor_if_a_long_line_is_cut_within_it(name: str) -> None:
    number = MEMORISED[name]
    for before in range(200, 245, 3):
        line = LINE[:before]
        said = shown(masked(("user", "你好")), *f"{line} {number} 就是这样")
        assert said.startswith(line) and said.endswith("就是这样")
        assert number not in said and len(digits(said)) < 4, before


@pytest.mark.parametrize("name", MEMORISED)
def test_nor_if_the_part_of_a_long_line_that_is_let_through_ends_within_it(name: str) -> None:
    number = MEMORISED[name]
    for before in range(120, 150, 3):
        said = shown(masked(("user", "你好")), *f"{LINE[:before]}是{number}呢{LINE[:200]}")
        assert said.startswith(LINE[:before]) and said.endswith(LINE[:200])
        assert number not in said and len(digits(said)) < 4, before


def test_a_line_without_an_end_still_streams() -> None:
    async def test() -> None:
        outgoing = Outgoing(masked_filters)
        assert len(await outgoing.feed(LINE)) > 100

    masked_filters = masked(("user", "你好")).filters
    asyncio.run(test())


def test_the_labels_are_in_the_customers_language() -> None:
    said = shown(masked(("user", "hello"), language="en"), f"Call {PHONE} now. Bye.")
    assert said == "Call <PHONE> now. Bye."


def test_hotlines_branches_rates_and_dates_stay() -> None:
    line = "请拨打95588或010-62223333，2027年3月1日起年利率2.10%，网点：北京市朝阳区建国路1号。"
    assert shown(masked(("user", "你好")), line) == line


@pytest.mark.parametrize("text", ["我的密码是abc12345", "验证码 482913", "my password is hunter22", "CVV码123"])
def test_a_secret_is_refused_in_the_question_and_in_the_history_and_not_repeated(text: str) -> None:
    for turns in ([("user", text)], [("user", text), ("assistant", "好"), ("user", "然后呢")], [("system", text)]):
        with pytest.raises(RefusedTextError) as refused:
            masked(*turns)  # type: ignore[arg-type]
        assert not any(secret in str(refused.value) for secret in ("abc12345", "482913", "hunter22", "123"))


def test_an_answer_of_before_that_looks_like_a_secret_refuses_nothing() -> None:
    found = masked(("user", "问"), ("assistant", f"您的密码是abc12345，手机{PHONE}。"), ("user", "然后呢"))
    assert "abc12345" not in found.turns[1].text and PHONE not in found.turns[1].text


def test_a_secret_of_the_model_is_starred_and_a_number_beside_it_is_not_shown_in_part() -> None:
    said = shown(masked(("user", "你好")), f"密码是abc12345，手机{PHONE}。")
    assert said == "密码是****，手机〈手机号〉。"


@pytest.mark.parametrize("seed", range(20))
def test_what_is_shown_is_the_same_however_it_is_cut(seed: int) -> None:
    rng = random.Random(seed)
    words = [f"{PHONE}呢", f"{CARD}呢", f"{MAIL}呢", "〈手机号1〉", "您好", "。", " ", "，", "\n", LINE[:90], "号码"]
    text = "".join(rng.choices(words, k=25))
    question: Sequence[tuple[Role, str]] = [("user", "我的手机号是13987654321")]
    whole = shown(masked(*question), text)
    places = sorted(rng.sample(range(1, len(text)), 15))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    assert shown(masked(*question), *pieces) == whole == shown(masked(*question), *text)
    assert PHONE not in whole and MAIL not in whole


def test_withholding_a_text_at_once_keeps_tokens() -> None:
    assert withhold(f"〈手机号1〉：{PHONE}", chinese=True) == "〈手机号1〉：〈手机号〉"
