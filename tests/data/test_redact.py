"""What becomes of an inquiry: tokens that last for a conversation, secrets refused, originals put back by policy."""

import dataclasses

import pytest

from fedbank.data.redact import Kind, Policy, RefusedTextError, Restorer, Vault, mask, redact, restore
from fedbank.errors import FedBankError

PHONE, CARD, ID = "13812345678", "6222021234567890128", "11010519491231002X"
QUESTION = f"我叫张伟，手机号{PHONE}，卡号{CARD}，身份证{ID}，年利率2.10%，2026-11-23到期，金额13812345678元。"


def test_personal_data_become_tokens_and_the_rest_stays() -> None:
    redacted = redact(QUESTION)
    assert redacted.text == (
        "我叫〈姓名1〉，手机号〈手机号1〉，卡号〈银行卡号1〉，身份证〈身份证号1〉，年利率2.10%，2026-11-23到期，金额13812345678元。"
    )
    assert [QUESTION[span.start : span.end] for span in redacted.spans] == ["张伟", PHONE, CARD, ID]
    assert redacted.tokens == ("〈姓名1〉", "〈手机号1〉", "〈银行卡号1〉", "〈身份证号1〉")
    assert restore(redacted.text, redacted.vault) == QUESTION


def test_tokens_of_an_english_text_are_english_unless_the_policy_says_otherwise() -> None:
    asked = "Call +86 138 1234 5678 or mail a.b@example.com."
    assert redact(asked).text == "Call <PHONE_1> or mail <EMAIL_1>."
    assert redact(asked, policy=Policy(language="zh")).text == "Call 〈手机号1〉 or mail 〈邮箱1〉."


def test_the_same_number_has_one_token_in_every_turn_however_it_is_written() -> None:
    vault = Vault()
    first = redact(f"我的手机{PHONE}", vault=vault)
    second = redact("call +86 138-1234-5678 or 139 1234 5678", vault=vault)
    assert first.tokens == ("〈手机号1〉",)
    assert second.tokens == ("〈手机号1〉", "<PHONE_1>")
    assert len(vault) == 2


def test_a_vault_that_was_kept_goes_on_where_it_was() -> None:
    vault = redact(QUESTION).vault
    again = Vault(vault.entries())
    assert redact(f"还是{PHONE}和13900001111", vault=again).text == "还是〈手机号1〉和〈手机号2〉"
    assert restore("〈手机号1〉", again) == PHONE


def test_two_conversations_share_nothing() -> None:
    assert redact("13900001111").tokens == redact(PHONE).tokens
    assert restore("<PHONE_1>", redact("13900001111").vault) == "13900001111"


def test_redacting_twice_changes_nothing() -> None:
    once = redact(QUESTION).text
    assert redact(once).text == once
    assert redact(once, vault=redact(QUESTION).vault).text == once


def test_a_token_that_the_customer_typed_is_never_given_to_an_original() -> None:
    redacted = redact(f"〈手机号1〉和{PHONE}")
    assert redacted.text == "〈手机号1〉和〈手机号2〉"
    assert restore("〈手机号1〉", redacted.vault) == "〈手机号〉"


def test_a_kind_that_the_policy_leaves_out_stays() -> None:
    policy = Policy(kinds=frozenset({Kind.BANK_CARD}))
    assert redact(f"手机{PHONE}，卡{CARD}。", policy=policy).text == f"手机{PHONE}，卡〈银行卡号1〉。"


def test_what_may_not_be_shown_is_withheld_and_what_nobody_knows_too() -> None:
    vault = redact(QUESTION).vault
    answer = "〈姓名1〉您好，〈银行卡号1〉已挂失，短信发到〈手机号1〉和〈手机号7〉。"
    shown = restore(answer, vault, {Kind.NAME, Kind.MOBILE})
    assert shown == f"张伟您好，〈银行卡号〉已挂失，短信发到{PHONE}和〈手机号〉。"
    assert restore(answer, vault, ()) == "〈姓名〉您好，〈银行卡号〉已挂失，短信发到〈手机号〉和〈手机号〉。"


@pytest.mark.parametrize("bent", ["<手机号1>", "《手机号1》", "〈手机号 1〉", "〈 手机号1 〉", "＜手机号1＞"])
def test_a_token_that_the_model_bent_is_still_known(bent: str) -> None:
    assert restore(f"请拨{bent}", redact(f"手机{PHONE}").vault) == f"请拨{PHONE}"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_an_answer_in_pieces_is_restored_like_a_whole_one(size: int) -> None:
    vault = redact(f"call {PHONE}, a.b@example.com").vault
    answer = "I <3 you: <PHONE_1> or <EMAIL_1>, if 2 < 3 then <UNKNOWN_1> and <PHONE_"
    restorer = Restorer(vault)
    shown = "".join(restorer.feed(answer[at : at + size]) for at in range(0, len(answer), size)) + restorer.end()
    assert shown == restore(answer, vault)
    assert PHONE in shown


def test_no_piece_shows_the_beginning_of_a_token() -> None:
    restorer = Restorer(redact(PHONE).vault)
    assert [restorer.feed(piece) for piece in ("call <", "PHONE", "_1", "> now")] == ["call ", "", "", f"{PHONE} now"]


SECRETS = [
    ("验证码是482913", "482913"),
    ("482913是我的验证码", "482913"),
    ("收到验证码了，是482913，对吗", "482913"),
    ("短信验证码为４８２９１３", "４８２９１３"),
    ("验证码48\u200b2913", "48\u200b2913"),
    ("动态口令：48291377", "48291377"),
    ("取款密码是一二三四五六", "一二三四五六"),
    ("密码abc123登不上去", "abc123"),
    ("登录密码：Zw@2020!", "Zw@2020!"),
    ("银行卡背面三位数是731", "731"),
    ("CVV2 731", "731"),
    ("my password is hunter2", "hunter2"),
    ("the one-time code is 482 913", "482 913"),
    ("I typed PIN 4821 twice", "4821"),
    ("482913 is my verification code", "482913"),
    ("有效期08/27的卡", "08/27"),
    ("card expiry date: 08/2027", "08/2027"),
    ("卡有效期到0827", "0827"),
    ("登录密码是13900001111", "13900001111"),
    ("my password is a.b@example.com", "a.b@example.com"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS, ids=[text for text, _ in SECRETS])
def test_a_secret_is_refused_and_not_repeated(text: str, secret: str) -> None:
    vault = Vault()
    with pytest.raises(RefusedTextError) as refused:
        redact(f"手机{PHONE}，{text}", vault=vault)
    start, end = refused.value.places[0]
    assert f"手机{PHONE}，{text}"[start:end] == secret
    assert isinstance(refused.value, FedBankError)
    assert secret not in str(refused.value) and secret not in repr(refused.value)
    assert len(vault) == 0
    assert secret not in mask(text)


@pytest.mark.parametrize(
    "text",
    [
        "密码忘了怎么办",
        "密码输错3次被锁了",
        "密码需要8-16位吗",
        "验证码收不到，尾号1234",
        "验证码60秒内有效吗",
        "取款密码忘记了，身份证后四位是1234",
        "邮编310000，邮政编码是310000",
        "how do I reset my password?",
        "my password is wrong",
        "the PIN was blocked after 3 attempts",
        "my zip code is 62704",
        "spinning 1234 opinions 5678",
        "定期存款有效期3年",
        "优惠券有效期1030天",
    ],
)
def test_a_question_about_secrets_is_not_refused(text: str) -> None:
    assert redact(text).text == text


def test_no_policy_lets_a_secret_through() -> None:
    with pytest.raises(RefusedTextError):
        redact("验证码是482913", policy=Policy(kinds=frozenset()))


@pytest.mark.parametrize("hidden", [PHONE, CARD, ID, "张伟"])
def test_no_repr_shows_an_original(hidden: str) -> None:
    redacted = redact(QUESTION)
    shown = repr(redacted) + repr(redacted.vault) + repr(redacted.vault.entries()) + repr(Restorer(redacted.vault))
    assert hidden not in shown and "年利率" not in shown


def test_records_are_frozen() -> None:
    redacted = redact(QUESTION)
    with pytest.raises(dataclasses.FrozenInstanceError):
        redacted.text = ""  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"手机{PHONE}", "手机138****5678"),
        ("手机+86 138-1234-5678", "手机138****5678"),
        (f"卡{CARD}", "卡****0128"),
        (f"证件{ID}", "证件11****2X"),
        ("我叫张伟，", "我叫张****，"),
        ("a.b@example.com", "a****@example.com"),
        ("地址：北京市朝阳区建国路88号", "地址：****"),
        ("验证码是482913", "验证码是****"),
    ],
)
def test_a_mask_shows_a_part_of_it(text: str, masked: str) -> None:
    assert mask(text) == masked
