"""What stands around a number and says what it is, where the number itself cannot: words and signs, zh and en."""

import re

_BEFORE = 28
_GAP = r"[^0-9，。；！？,;!?\n]"
_MONEY_BEFORE = re.compile(
    r"(?:[¥￥$€£]|RMB|CNY|USD|HKD|EUR|人民币|金额|价格|余额|总额|额度|[0-9],)[ :：是为]{0,3}\Z", re.I
)
_MONEY_AFTER = re.compile(
    r"\.[0-9]{1,2}(?![0-9])|,[0-9]{3}(?![0-9])"
    r"| ?(?:[元块万亿股份%]|美元|港元|日元|yuan|RMB|CNY|USD|HKD|EUR|dollars|shares)",
    re.I,
)
_CUES = {
    "papers": r"订单|单号|流水|合同|保单|运单|编号|批次|凭证|交易号|快递|发票|序列|参考号|工单"
    r"|order|contract|policy|invoice|\bref|serial|tracking|ticket|case|transaction|batch|number \#",
    "phone": r"电话|手机|座机|固话|传真|联系方式|致电|拨打|\btel|phone|mobile|\bcell|\bcall|landline|\bfax",
    "account": r"账号|帐号|账户|帐户|卡号|银行卡|储蓄卡|信用卡|借记卡|account|acct|card",
    "identity": r"身份证|证件|identity card|\bID",
    "passport": r"护照|passport",
    "permit": r"通行证|回乡证|台胞证|permit",
}
_SAID = {cue: re.compile(rf"(?:{words}){_GAP}{{0,14}}\Z", re.I) for cue, words in _CUES.items()}
_GLUED = re.compile(r"[A-Za-z][A-Za-z0-9_]*[-_]?\Z")
_GLUED_CUE = re.compile(r"(?:tel|phone|mobile|cell|call|wechat|wx|whatsapp|is|at|no|on)[-_]?\Z", re.I)


def said_before(cue: str, text: str, start: int) -> bool:
    """Whether one of the words for ``cue`` stands before ``start`` with nothing but a few words in between."""
    return _SAID[cue].search(text[max(0, start - _BEFORE) : start]) is not None


def is_money(text: str, start: int, end: int) -> bool:
    """Whether the number is an amount: a currency, a unit or decimals beside it."""
    return (
        _MONEY_AFTER.match(text, end) is not None or _MONEY_BEFORE.search(text[max(0, start - 8) : start]) is not None
    )


def is_paper(text: str, start: int) -> bool:
    """Whether it is called the number of an order, a contract or the like, and not of somebody's telephone there."""
    return said_before("papers", text, start) and not said_before("phone", text, start)


def is_part_of_word(text: str, start: int, end: int) -> bool:
    """Whether letters are glued to the number that make it a serial number rather than a telephone."""
    glued = _GLUED.search(text[max(0, start - 12) : start])
    return glued is not None and _GLUED_CUE.search(glued[0]) is None
