"""Whether two answers say the same: one changed character may be the opposite, and many may be none at all."""

import pytest

from fedbank.serving.rollout.agreement import agrees, likeness, numbers

OPPOSITES = {
    "a negation": ("本产品保本，收益稳定。", "本产品不保本，收益稳定。"),
    "a negation elsewhere": ("不可以提前还款，可以异地办理。", "可以提前还款，不可以异地办理。"),
    "a ban": ("本业务可以在线办理开户手续。", "本业务禁止在线办理开户手续。"),
    "a decimal point": ("年利率为2.10%，按月付息。", "年利率为21.0%，按月付息。"),
    "a unit": ("最高贷款50万元，分期偿还。", "最高贷款50元，分期偿还。"),
    "the order of numbers": ("1年期2%，3年期3%。", "1年期3%，3年期2%。"),
    "a number in words": ("定期三年利率较高，可以续存。", "定期五年利率较高，可以续存。"),
    "the last digit of a long one": ("账户尾数 90071992547409931", "账户尾数 90071992547409930"),
    "not, in English": ("You can repay the loan early.", "You cannot repay the loan early."),
    "n't": ("You can repay the loan early.", "You can't repay the loan early."),
    "n't with a printer's apostrophe": ("You can repay the loan early.", "You can’t repay the loan early."),
    "never": ("We share your data with others.", "We never share your data with others."),
    "without": ("It is free with a fee waiver.", "It is free without a fee waiver."),
    "un-": ("The deposit is insured by the fund.", "The deposit is uninsured by the fund."),
    "an English number": ("Bring two documents to the branch.", "Bring three documents to the branch."),
    "other words": ("请携带身份证到网点办理。", "利率以公告为准，详询客服。"),
    "nothing": ("请携带身份证到网点办理。", ""),
}
SAME = {
    "equal": ("本产品不保本。", "本产品不保本。"),
    "blanks and capitals": ("The rate is 2%.", "the  rate is 2% ."),
    "thousands and zeros": ("手续费为 1,234.50 元", "手续费为1234.5元"),
    "full width": ("利率为２．１０％", "利率为2.1%"),
    "another word of denial": ("您不能提前还款，请到网点办理。", "您不可以提前还款，请到网点办理。"),
    "can not": ("You can not repay it early.", "You cannot repay it early."),
    "一般": ("一般来说可以在线办理。", "一般可以在线办理。"),
    "both silent": ("", " "),
}


@pytest.mark.parametrize("name", OPPOSITES)
def test_what_says_another_thing_does_not_agree(name: str) -> None:
    one, other = OPPOSITES[name]
    assert not agrees(one, other) and not agrees(other, one)


@pytest.mark.parametrize("name", SAME)
def test_what_says_the_same_agrees(name: str) -> None:
    one, other = SAME[name]
    assert agrees(one, other) and agrees(other, one)


def test_likeness_alone_would_not_see_a_negation() -> None:
    assert likeness(*OPPOSITES["a negation"]) > 0.8
    assert likeness("ab", "cd") == 0.0 and likeness("我", "我") == 1.0


def test_numbers_are_read_with_their_units_in_order() -> None:
    assert numbers("1,234.50元 或 3％，共两次") == [("1234.5", "元"), ("3", "%"), ("两", "")]
