"""Names of people, by what stands before them (姓名, 我叫, "my name is") or after them (先生, 女士) or both.

A name without such a cue is not found: this is not a model of language. Where it is not clear whether a given name has
one character or two, both are taken unless the second begins an ordinary word.
"""

import re
from collections.abc import Iterator

from fedbank.data.redaction.kinds import Found, Kind
from fedbank.data.redaction.words import characters, first_characters, words

_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_IS = r"(?:(?:[ ]?(?:[:：=,，]|是|为|叫做|叫|姓名|名叫|名字是|名字叫|名为)){1,2}[ ]?|[ ]{1,2})[\"“「『(（【]?"
_FIELD = re.compile(rf"(?:{'|'.join(sorted(words('name_cues'), key=len, reverse=True))})({_IS})?")
_DIRECT = re.compile(r"(?:[我他她名]叫|姓名|户名|人|丈夫|妻子|[公婆人爱]|父亲|母亲|儿子|女儿|我太太|爸爸|妈妈)\Z")
_I_AM = re.compile(r"(?:我|这里|这边|您好)是")
_TITLE = re.compile(r"先生|女士|小姐|太太|同志|阿姨|叔叔|大爷|经理|老师|主任|行长|医生|律师")
_STYLED = "先生女士小姐太太同志阿姨叔叔大爷"
_LETTER = re.compile("[A-Za-z]")
_HAN_RUN = re.compile(rf"[{_HAN}]+")
_ENDS = re.compile(rf"[^{_HAN}·]|\Z|先生|女士|小姐|太太|[，。、]")
_DOTTED = re.compile(rf"[{_HAN}]{{1,10}}(?:[·•・][{_HAN}]{{1,10}}){{1,3}}")
_LATIN = re.compile(r"[A-Z][A-Za-z'’-]*\.?(?: (?:(?:van|de|der|da|bin|al|von|la) )?[A-Z][A-Za-z'’-]*\.?){0,3}")
_LOWER = re.compile(r"[a-z][a-z'’-]+(?: [a-z][a-z'’-]+)?")

_SINGLE, _RARE, _COMPOUND = characters("surnames"), characters("rare_surnames"), words("compound_surnames")
_FREQUENT = first_characters("surnames", 100)
_NOT_SECOND, _NOT_LAST, _NOT_NAMES = characters("not_second"), characters("not_last"), words("not_names")
_EN_COMMON = words("english_common")
_CHINESE_AFTER = re.compile(rf" ?[{_HAN}]")

_CAPITAL = re.compile(r"[A-Z][A-Za-z'’-]*")
_EN_BEFORE = re.compile(
    r"(?:(?P<title>(?<![A-Za-z])(?:Mr|Mrs|Ms|Miss|Dr)\.? ?)"
    r"|(?P<strict>(?<![A-Za-z])(?:I am|I'm|I’m|[Tt]his is|[Ss]peaking with|Regards,|Sincerely,|Thanks,)\s)"
    r"|(?i:(?:name|holder|husband|wife|applicant|attn|contact person|is called|beneficiary|borrower|spouse|signed by"
    r"|payee|guarantor|dear)(?:d|'s|’s)?(?:[ ]?(?:is|was|are|[:：=,-])| )(?: (?:called|named))?[ ]?))\Z"
)
_MY_NAME = re.compile(r"(?:my|our|his|her|the|full) (?:full )?name(?:'s|’s| is) ?")
_LONGEST_CUE = 28


def find_names(text: str) -> Iterator[Found]:
    """The names in the plain form ``text``, in no order; what two cues share may come twice."""
    if not text.isascii():
        yield from _after_chinese_cues(text)
        yield from _before_titles(text)
    if _LETTER.search(text) is not None:
        yield from _english(text)


def _after_chinese_cues(text: str) -> Iterator[Found]:
    for cue in _FIELD.finditer(text):
        start, sure = cue.end(), cue[1] is not None or cue[0].endswith("叫")
        if not sure and _DIRECT.search(cue[0]) is None:
            continue
        end = _name_end(text, start, sure=sure) or (None if sure else _rare_name_end(text, start, 2))
        if end is not None:
            yield Found(start, end, Kind.NAME)
    for cue in _I_AM.finditer(text):
        start = cue.end()
        end = _name_end(text, start, sure=False) or _rare_name_end(text, start, 3)
        if end is not None and end - start >= 2 and _ENDS.match(text, end):
            yield Found(start, end, Kind.NAME)


def _name_end(text: str, start: int, *, sure: bool) -> int | None:
    """Where the name that begins at ``start`` ends, if one does. ``sure``: a word or a colon says that one does."""
    dotted = _DOTTED.match(text, start) if sure else None
    if dotted is not None:
        return dotted.end()
    latin = _LATIN.match(text, start)
    if latin is not None:
        words = [word for word in latin[0].split() if word in _EN_COMMON]
        return latin.end() if sure and not words and len(latin[0]) > 1 else None
    run = _HAN_RUN.match(text, start, start + 5)
    if run is None:
        return None
    written = run[0]
    family = 2 if written[:2] in _COMPOUND else 1 if _is_surname(written[0], sure) else 0
    if not family or len(written) == family or written[:2] in _NOT_NAMES or written[:3] in _NOT_NAMES:
        return _whole_field(text, start, written) if sure and not family else None
    given = 2 if len(written) > family + 1 and written[family + 1] not in _NOT_SECOND else 1
    taken = written[: family + given]
    if taken[-1] in _NOT_LAST:
        taken = taken[:-1] if given == 2 else ""
    if any(title in written for title in ("先生", "女士", "小姐", "太太")):
        taken = re.split("先生|女士|小姐|太太", written)[0]
    return start + len(taken) if taken else None


def _rare_name_end(text: str, start: int, least: int) -> int | None:
    """Of three characters or ``least``, none of which begins an ordinary word, and nothing after: 常思英, not 常客."""
    for size in range(3, least - 1, -1):
        written = text[start : start + size]
        if len(written) < size or _HAN_RUN.fullmatch(written) is None or not _ENDS.match(text, start + size):
            continue
        ordinary = any(char in _NOT_SECOND for char in written[1:]) or written[-1] in _NOT_LAST
        if written[0] in _SINGLE and written[:2] not in _NOT_NAMES and not ordinary:
            return start + size
    return None


def _whole_field(text: str, start: int, written: str) -> int | None:
    """A surname that no list has: only if the field holds two to four characters and nothing else."""
    end = start + len(written)
    alone = 2 <= len(written) <= 4 and (end == len(text) or text[end] in ",，。;；\n 、")
    field = text[start - 1] in ":：" and written[:2] not in _NOT_NAMES and written[-1] not in _NOT_LAST
    return end if alone and field else None


def _is_surname(char: str, sure: bool) -> bool:
    return char in _SINGLE and (sure or char not in _RARE)


def _before_titles(text: str) -> Iterator[Found]:
    for title in _TITLE.finditer(text):
        end = title.start()
        before = text[max(0, end - 4) : end]
        styled = title[0] in _STYLED
        for size in (4, 3, 2, 1):
            name = before[-size:]
            if len(name) == size and _titled(name, styled):
                yield Found(end - size, end, Kind.NAME)
                break


def _titled(name: str, styled: bool) -> bool:
    if _HAN_RUN.fullmatch(name) is None or name in _NOT_NAMES or name[:2] in _NOT_NAMES:
        return False
    if name[:2] in _COMPOUND:
        return True
    if len(name) > 3 or name[0] not in _SINGLE:
        return False
    if len(name) == 1:
        return styled or name not in _RARE
    before = name[0] in _RARE and (name[1] in _FREQUENT or name[1] == "小")  # 和李明女士: not somebody called 和
    return not before and not any(char in _NOT_SECOND and char != "小" for char in name[1:])


def _english(text: str) -> Iterator[Found]:
    small, done = text.lower(), 0
    if "name" in small:
        for said in _MY_NAME.finditer(small):
            if (end := _english_end(text, said.end(), 1, lower=True)) is not None:
                yield Found(said.end(), end, Kind.NAME)
    for word in _CAPITAL.finditer(text):
        start = word.start()
        if start < done or word[0] in _EN_COMMON:
            continue
        cue = _EN_BEFORE.search(text[max(0, start - _LONGEST_CUE) : start])
        if cue is not None and (end := _english_end(text, start, 1 + (cue["strict"] is not None), lower=False)):
            yield Found(start, end, Kind.NAME)
            done = end


def _english_end(text: str, start: int, least: int, *, lower: bool) -> int | None:
    """Where a name of at least ``least`` words ends; ``lower``: or one or two words in small letters, or Chinese."""
    if lower and _CHINESE_AFTER.match(text, start):
        return _name_end(text, start, sure=True)
    match = _LATIN.match(text, start)
    if match is None and lower:
        match = _LOWER.match(text, start)
    if match is None:
        return None
    words = match[0].split(" ")
    kept = next((at for at, word in enumerate(words) if word.rstrip(".").capitalize() in _EN_COMMON), len(words))
    return start + len(" ".join(words[:kept])) if kept >= least else None
