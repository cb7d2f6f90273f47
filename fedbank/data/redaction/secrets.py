"""What must never reach a model or a record (class C3 of JR/T 0171-2020): one-time codes, passwords, PIN, CVV, expiry.

They look like any other digits or words, so a cue word beside them gives them away. "密码输错3次" holds no secret,
and neither does "how do I reset my password".
"""

import re
from collections.abc import Iterator

from fedbank.data.redaction.kinds import Found, Kind
from fedbank.data.redaction.words import words

_STOP = r"0-9，。；！？,;!?\n"
_CUE = re.compile(r"码|口令|背面.{0,4}[三四34]位|code|pass(?:word|phrase|code| phrase)|otp|pin码?|cv[vcn]2?码?")
"""In small letters; each branch begins with a plain character, by which the search leaps."""
_CODE_OF = re.compile(
    r"(?:one[- ]time (?:pass)?|verification |security |auth(?:entication|orization)? |confirmation |sms |login "
    r"|your |my |the )\Z"
)
_SAID_TO_BE = re.compile(r"[^0-9.;?!\n]{0,28}(?:is|was|:) ?[0-9]{4,8}(?![0-9])")
_CODES = frozenset(["验证", "校验", "动态", "短信", "激活", "确认", "安全"])
_CODE = r"(?:[0-9]{3}[ -][0-9]{3}|[0-9]{3,8}|[零〇一二三四五六七八九幺]{4,8})(?![0-9])"
_NOT_A_CODE = (
    r"(?! ?(?:[年月日号元位次个分秒天岁版块万%]|小时|minutes?|digits?|characters?|times|days|hours|seconds|attempts"
    r"|[-~至到][0-9]))"
)
_LINK = r"(?:是|为|[:：=]|is|was)"
_AFTER = re.compile(
    rf"(?:[^{_STOP}]{{0,8}}?|[^0-9。！？!?\n]{{0,28}}?{_LINK})[\s\"“'「『(（【]{{0,3}}({_CODE}){_NOT_A_CODE}"
)
_ELSE = re.compile(
    r"尾号|后四位|末四位|身份证|订单|手机|电话|卡号|账号|单号|编号|客服|拨打|热线|流水"
    r"|ending|phone|order|card number|account|expire"
)
_BEFORE = re.compile(
    r"(?<![0-9])([0-9]{3}[ -][0-9]{3}|[0-9]{4,8})[ ,，]?"
    r"(?:是|作为|为|就是|这个|这是| (?:is|as|for) (?:my|the|your)|[(（])[^0-9，。\n]{0,20}\Z"
)
_CONNECTED = re.compile(
    rf"[^{_STOP}A-Za-z]{{0,6}}?(?: ?(?:是|为|[:：=]|改成|改为|设为|设成|(?:is|was|to)(?= ))[ ]?(?:now |set to )?)"
    r"[\"“'「『(（【`]?"
    r"([!-~]{4,64})"
)
_GLUED = re.compile(r" ?[\"“'「『(（【`]?([!-~]{4,64})")
_NOT_PASSWORDS = words("not_passwords")
_LETTER = re.compile(r"[a-z]")
_EXPIRY = re.compile(
    r"(?:有效期(?:限|至|到)?|(?i:valid (?:thru|through|until)|expir(?:y|ation)(?: date)?|expires?|exp\.?(?: date)?))"
    r"[^0-9，。,;；\n]{0,6}((?:0[1-9]|1[0-2])(?: ?/ ?(?:20)?)?[2-4][0-9])(?![0-9/])"
    rf"{_NOT_A_CODE}"
)


def find_secrets(text: str) -> Iterator[Found]:
    """The secrets in the plain form ``text``, in no order; two cues may give one away twice."""
    small = text.lower()
    for cue in _CUE.finditer(small):
        start, end = cue.span()
        if not _names_a_secret(small, start, end, cue[0]):
            continue
        after = _AFTER.match(text, end)
        if after is not None and _ELSE.search(text, end, after.start(1)) is None:
            yield Found(*after.span(1), Kind.SECRET)
        window = max(0, start - 44)
        before = _BEFORE.search(text[window:start])
        if before is not None:
            yield Found(window + before.start(1), window + before.end(1), Kind.SECRET)
        if cue[0] in "码口令" or cue[0].startswith("pass"):
            word = _password(text, end)
            if word is not None:
                yield Found(*word, Kind.SECRET)
    if "有效期" in text or "exp" in small or "valid" in small:
        for match in _EXPIRY.finditer(text):
            yield Found(*match.span(1), Kind.SECRET)


def _names_a_secret(small: str, start: int, end: int, cue: str) -> bool:
    """Whether the word is that of a secret, rather than a post code or a spinner."""
    if cue == "码":
        return small[max(0, start - 1) : start] == "密" or small[max(0, start - 2) : start] in _CODES
    if cue == "code":
        called = _CODE_OF.search(small[max(0, start - 20) : start])
        anybodys = called is not None and called[0] in ("your ", "my ", "the ")
        return called is not None and (not anybodys or _SAID_TO_BE.match(small, end) is not None)
    if cue[0] in "口背p" and not cue.startswith("pin"):
        return True
    return not (_LETTER.match(small, start - 1) if start else None) and not _LETTER.match(small, end)


def _password(text: str, start: int) -> tuple[int, int] | None:
    """A word of letters, digits and signs that the text says is a password, or that only a password looks like."""
    match = _CONNECTED.match(text, start)
    if match is not None:
        word = match[1].rstrip(".,;:\"')")
        if len(word) >= 4 and word.lower() not in _NOT_PASSWORDS:
            return match.start(1), match.start(1) + len(word)
        return None
    match = _GLUED.match(text, start)
    if match is None:
        return None
    word = match[1].rstrip(".,;:\"')")
    mixed = any(char.isdecimal() for char in word) and any(char.isalpha() for char in word)
    return (match.start(1), match.start(1) + len(word)) if len(word) >= 4 and mixed else None
