"""What must never reach a model or a record (class C3 of JR/T 0171-2020): one-time codes, passwords, PIN, CVV, expiry.

They look like any other digits or words, so a cue word beside them gives them away. "密码输错3次" holds no secret,
and neither does "how do I reset my password".
"""

import re
from collections.abc import Iterator

from fedbank.data.redaction.kinds import Found, Kind
from fedbank.data.redaction.words import words

_STOP = r"0-9，。；！？,;!?\n"
_CODE_CUE = (
    r"验证码|校验码|动态码|动态口令|动态密码|短信码|激活码|确认码|安全码|密码|口令|[Pp][Ii][Nn]码"
    r"|[Cc][Vv][VvCc]2?码?|[Cc][Vv][Nn]2?"
    r"|(?i:one[- ]time (?:pass)?(?:code|word)|verification code|security code|passcode)"
    r"|(?i:auth(?:entication|orization)? code)"
    r"|(?i:confirmation code|(?:sms|login) code|(?:your|my|the) code(?= is)|password|passphrase)"
    r"|(?<![A-Za-z])(?:OTP|otp|PIN|pin|Pin)(?![A-Za-z])"
)
_CUE = re.compile(_CODE_CUE)
_CODE = r"(?:[0-9]{3,8}|[0-9]{3}[ -][0-9]{3}|[零〇一二三四五六七八九幺]{4,8})(?![0-9])"
_NOT_A_CODE = (
    r"(?! ?(?:[年月日号元位次个分秒天岁版块万%]|小时|minutes?|digits?|characters?|times|days|hours|seconds|attempts"
    r"|[-~至到][0-9]))"
)
_LINK = r"(?:是|为|[:：=]|is|was)"
_AFTER = re.compile(
    rf"(?:[^{_STOP}]{{0,8}}|[^0-9。！？!?\n]{{0,14}}{_LINK})[\s\"“'「『(（【]{{0,3}}({_CODE}){_NOT_A_CODE}"
)
_ELSE = re.compile(
    r"尾号|订单|手机|电话|卡号|账号|单号|编号|客服|拨打|热线|流水|ending|phone|order|card number|account|expire"
)
_BEFORE = re.compile(
    r"(?<![0-9])((?:[0-9]{4,8}|[0-9]{3}[ -][0-9]{3}))[ ,，]?"
    r"(?:是|作为|为|就是|这个|这是| (?:is|as|for) (?:my|the|your)|[(（])[^0-9，。\n]{0,10}\Z"
)
_PASSWORD_CUE = re.compile(r"(?:密码|口令|(?i:password|passphrase|passcode|pass phrase))\Z")
_CONNECTED = re.compile(
    rf"[^{_STOP}A-Za-z]{{0,6}}?(?: ?(?:是|为|[:：=]|改成|改为|设为|设成|(?:is|was|to)(?= ))[ ]?(?:now |set to )?)"
    r"[\"“'「『(（【`]?"
    r"([!-~]{4,64})"
)
_GLUED = re.compile(r" ?[\"“'「『(（【`]?([!-~]{6,64})")
_NOT_PASSWORDS = words("not_passwords")
_EXPIRY = re.compile(
    r"(?:有效期(?:限|至|到)?|(?i:valid (?:thru|through|until)|expir(?:y|ation)(?: date)?|expires?|exp\.?(?: date)?))"
    r"[^0-9，。,;；\n]{0,6}((?:0[1-9]|1[0-2]) ?/ ?(?:20)?[2-4][0-9])(?![0-9/])"
)


def find_secrets(text: str) -> Iterator[Found]:
    """The secrets in the plain form ``text``, in no order; two cues may give one away twice."""
    for cue in _CUE.finditer(text):
        after = _AFTER.match(text, cue.end())
        if after is not None and _ELSE.search(text, cue.end(), after.start(1)) is None:
            yield Found(*after.span(1), Kind.SECRET)
        window = max(0, cue.start() - 24)
        before = _BEFORE.search(text[window : cue.start()])
        if before is not None:
            yield Found(window + before.start(1), window + before.end(1), Kind.SECRET)
        if _PASSWORD_CUE.search(cue[0]) and (word := _password(text, cue.end())) is not None:
            yield Found(*word, Kind.SECRET)
    for match in _EXPIRY.finditer(text):
        yield Found(*match.span(1), Kind.SECRET)


def _password(text: str, start: int) -> tuple[int, int] | None:
    """A word of letters, digits and signs that the text says is a password, or that only a password looks like."""
    match = _CONNECTED.match(text, start)
    if match is not None:
        word = match[1].rstrip(".,;:!?\"')")
        if len(word) >= 4 and word.lower() not in _NOT_PASSWORDS:
            return match.start(1), match.start(1) + len(word)
        return None
    match = _GLUED.match(text, start)
    if match is None:
        return None
    word = match[1].rstrip(".,;:!?\"')")
    mixed = any(char.isdecimal() for char in word) and any(char.isalpha() for char in word)
    return (match.start(1), match.start(1) + len(word)) if len(word) >= 6 and mixed else None
