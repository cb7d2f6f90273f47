"""A labelled set of inquiries: every kind of personal data in many surroundings, and what looks like it and must stay.

Seeded and synthetic. What is to be found is known from how a text is put together, never from a recogniser.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from simulations.benchmarks import redaction_values as values
from simulations.benchmarks.redaction_values import Draw

ZERO_WIDTH = "\u200b\u200d\ufeff\u2060"
_SLOT = re.compile(r"\{\}")


@dataclass(frozen=True, slots=True)
class Example:
    """One inquiry. ``gold``: (start, end, kind) of everything that must be found; empty for a text that must stay."""

    text: str
    gold: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind: how its values are drawn and the texts around them, each with one ``{}``."""

    kind: str
    draw: Draw
    around: tuple[str, ...]


_ZH_NUMBER = (
    "{}",
    "我的{}",
    "号码是{}，请帮我查一下余额",
    "麻烦查{}的还款日",
    "您好，{}这个怎么办理挂失？",
    "【{}】",
    "（{}）",
    "客户留的是{}。",
    "帮我看看{}\n谢谢",
    "原来是{}现在想换一个",
    "1.{}",
    "登记的为{},请更新",
    "请问{}能用吗",
    "贷款20万元，登记{}，期限36期",
    "于2026年3月1日登记了{}",
)
_EN_NUMBER = (
    "It is {}.",
    "please check {} for me",
    "{} was registered on 2026-03-01",
    "Hi, I'd like to update {}, thanks",
    "old: {}; new one follows",
    "Can you look up {}?",
    "For a loan of 20,000 USD I gave {} last week",
)
_BOTH = _ZH_NUMBER + _EN_NUMBER
_ZH_NAME = (
    "我叫{}，想咨询房贷",
    "我叫{}想问一下利率",
    "姓名：{}",
    "姓名:{} 电话稍后提供",
    "联系人是{}，请回电",
    "{}先生的贷款批了吗",
    "请转告{}女士",
    "户名：{}，开户行杭州",
    "收款人是{}，金额5000元",
    "您好，我是{}，要办理提前还款",
    "借款人：{}；期限：36个月",
    "持卡人姓名为{}",
    "我老公叫{}，他的卡丢了",
    "本人姓名{}，现申请展期",
    "投保人:{}",
    "{}先生您好",
    "担保人为{}。",
    "我妈叫{}在你们行有存款",
    "客户姓名：{}\n业务：转账",
    "经办人：{}（柜台）",
    "申请人{}，材料已交",
    "联系人{}，工作日可联系",
)
_EN_NAME = (
    "My name is {} and I have a question",
    "my name is {}.",
    "This is {} speaking",
    "Name: {}",
    "Dear {}, your card is ready",
    "Please call Mr. {}",
    "Ms {} asked about her loan",
    "I am {}, a customer since 2019",
    "Account holder: {}",
    "Mrs {} lost her card",
    "my name's {}, thanks",
    "Beneficiary: {}",
)
_ZH_ADDRESS = (
    "我住在{}",
    "地址：{}",
    "请寄到{}，谢谢",
    "家住{}，附近有网点吗",
    "通讯地址改为{}。",
    "账单寄到{}好吗",
    "户籍地址是{}",
    "{}附近有没有ATM",
    "我搬到{}了，怎么改地址",
)
_EN_ADDRESS = (
    "I live at {}.",
    "My address is {}",
    "Please send it to {}, thanks",
    "New address: {}",
    "I moved to {} last month",
)
_CODE = (
    "验证码是{}",
    "验证码{}",
    "我的验证码：{}，对吗",
    "动态码 {} 怎么不对",
    "短信验证码为{}，5分钟内有效",
    "{}是我的验证码",
    "收到验证码了，是{}",
    "the one-time code is {}",
    "OTP: {}",
    "my verification code is {}",
    "{} is my verification code",
    "passcode {}",
    "PIN码{}",
    "取款密码是{}",
    "动态口令：{}",
    "CVV2是{}",
    "CVV {}",
    "your code is {}",
)
_PASSWORD = (
    "密码是{}",
    "登录密码：{}",
    "我的密码{}登不上去",
    "my password is {}",
    "password: {}",
    "密码改成{}了",
    "网银密码为{}，请重置",
    "Password={}",
)
_ID = ("身份证{}", "身份证号码是{}", "证件号：{}", "my ID number is {}", "ID:{}")
_PHONE = (
    "电话{}",
    "手机号是{}",
    "联系电话：{}，随时打",
    "请拨打{}找我",
    "my phone is {}",
    "call me at {}",
    "Tel:{}",
    "手机{}收不到短信",
)
_CARD = ("卡号{}", "银行卡{}", "我的信用卡号是{}", "转到{}这张卡", "card number {}", "my card {} was declined")
_ACCOUNT = ("账号{}", "账号是{}", "账户：{}", "我的存折账号{}", "account number {}", "my account no. is {}")

FAMILIES = (
    Family("identity_card", values.identity_card, _BOTH + _ID),
    Family("identity_card", values.old_identity_card, _ID),
    Family("bank_card", values.bank_card, _BOTH + _CARD),
    Family("account", values.account, _ACCOUNT),
    Family("mobile", values.mobile, _BOTH + _PHONE),
    Family("landline", values.landline, _BOTH + _PHONE),
    Family("international_phone", values.international, _BOTH + _PHONE),
    Family("email", values.email, (*_BOTH, "邮箱{}", "发到{}就行", "e-mail me at {}")),
    Family("credit_code", values.credit_code, (*_BOTH, "统一社会信用代码{}", "税号：{}")),
    Family("passport", values.passport, (*_BOTH, "护照{}", "护照号码是{}", "passport no. {}")),
    Family("permit", values.permit, ("通行证{}", "回乡证号{}", "港澳通行证：{}", "permit number {}")),
    Family("plate", values.plate, (*_ZH_NUMBER, "车牌{}", "车牌号是{}，想办ETC")),
    Family("iban", values.iban, (*_BOTH, "IBAN {}", "transfer to {} please")),
    Family("name", values.chinese_name, _ZH_NAME),
    Family("name", values.english_name, _EN_NAME),
    Family("address", values.chinese_address, _ZH_ADDRESS),
    Family("address", values.english_address, _EN_ADDRESS),
    Family("secret", values.code, _CODE),
    Family("secret", values.password, _PASSWORD),
)

_D: dict[str, Draw] = {
    "order": values.order,
    "wrong_card": values.wrong_bank_card,
    "eleven": lambda rng: "1" + values.digits(rng, 10, "3456789"),
    "amount": lambda rng: f"{rng.randint(1000, 99999999)}",
    "commas": lambda rng: f"{rng.randint(1000, 999999999):,}.{rng.randint(0, 99):02}",
    "day": lambda rng: f"{rng.randint(2019, 2027)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
    "contract": lambda rng: f"{rng.choice(['HT', 'DK', 'LN', 'XD'])}{values.order(rng)}",
    "policy": lambda rng: f"P{values.digits(rng, rng.choice([8, 10, 12]))}",
    "rate": lambda rng: f"{rng.randint(1, 24)}.{rng.randint(0, 99):02}%",
    "four": lambda rng: values.digits(rng, 4),
    "six": lambda rng: values.digits(rng, 6),
    "service": lambda rng: rng.choice(["95588", "95533", "400-820-8888", "4008895566", "10086", "12345"]),
}
NEGATIVES = (
    "订单号{order}什么时候到账",
    "交易流水号{order}查不到",
    "流水号：{wrong_card}",
    "订单编号{wrong_card}退款了吗",
    "转账金额{eleven}元",
    "余额为{amount}元，利息{commas}元",
    "共计人民币{eleven}.00",
    "{day}到期，年利率{rate}",
    "从{day}到{day}的明细",
    "合同号{contract}提前还款怎么算",
    "保单号{policy}如何退保",
    "尾号{four}的卡年费多少",
    "热线{service}打不通",
    "首付{amount}，贷款{commas}，30年",
    "验证码收不到怎么办",
    "密码忘了怎么重置",
    "密码输错3次被锁了",
    "密码需要8-16位吗",
    "验证码60秒内有效吗，尾号{four}",
    "理财产品{six}的净值",
    "基金代码{six}收益{rate}",
    "邮编{six}",
    "北京市的网点几点开门",
    "人民路支行电话打不通",
    "客户经理什么时候联系我",
    "我是老客户，想提额",
    "联系人信息怎么改",
    "高先进的手机银行",
    "金卡和白金卡有什么区别",
    "我是金卡用户，额度{amount}",
    "2026年11月23号还款",
    "第3季度第12期第5项",
    "利率从{rate}降到{rate}",
    "收款人户名填什么",
    "order number {order} has not arrived",
    "reference {wrong_card} was rejected",
    "invoice {contract}",
    "my policy number is {policy}",
    "the amount is {commas} USD",
    "transfer {eleven} RMB",
    "since {day} the rate is {rate}",
    "card ending {four}",
    "how do I reset my password?",
    "my password is wrong, what now?",
    "I am Very Happy with it",
    "The PIN was blocked after 3 attempts",
    "call {service} for help",
    "the one-time code expires in 5 minutes",
    "Dear Customer Service, what is the fee?",
    "a fee of {amount} yuan",
    "IBAN or SWIFT, which one for 2026?",
    "loan {contract}, 36 months",
    "The Main Street branch is closed",
    "version 10.0.19045.3803",
    "IP 192.168.100.101 blocked",
)


def generate(count: int, *, seed: int) -> Iterator[Example]:
    """``count`` examples: two thirds with personal data, a third without; equal arguments give equal examples."""
    rng = random.Random(seed)
    for at in range(count):
        yield _negative(rng) if at % 3 == 2 else _positive(rng, FAMILIES[(at // 3 * 2 + at % 3) % len(FAMILIES)])


def _positive(rng: random.Random, family: Family) -> Example:
    around = rng.choice(family.around)
    value = _disguised(rng, family.draw(rng), family.kind)
    before, after = around.split("{}")
    lead = rng.choice(_LEADS) if rng.random() < 0.3 and family.kind != "secret" else ""
    start = len(lead) + len(before)
    return Example(lead + before + value + after, ((start, start + len(value), family.kind),))


_LEADS = ("您好，", "请问一下，", "Hello. ", "上次说的2026-05-01那笔3000元，", "我是2019年开户的。", "【咨询】")


def _negative(rng: random.Random) -> Example:
    text = re.sub(r"\{(\w+)\}", lambda slot: _D[slot[1]](rng), rng.choice(NEGATIVES))
    return Example(text, ())


def _disguised(rng: random.Random, value: str, kind: str) -> str:
    """One in twelve in full-width characters, one in twelve with a character in it that nobody sees."""
    drawn = rng.random()
    if drawn < 1 / 12 and kind not in ("name", "address", "secret"):
        return "".join(chr(ord(char) + 0xFEE0) if char.isascii() and char.isalnum() else char for char in value)
    if drawn > 11 / 12 and len(value) > 2 and kind != "secret":
        at = rng.randint(1, len(value) - 1)
        return value[:at] + rng.choice(ZERO_WIDTH) + value[at:]
    return value
