"""Postal addresses by their structure: a street or a village with a number, or a chain of regions down to a village.

A region alone (a province, a city, a district) says nothing of a person and stays; so does a street without a number.
"""

import re
from collections.abc import Iterator

from fedbank.data.redaction.kinds import Found, Kind

_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_NUMBER = r"[0-9A-Za-z一二三四五六七八九十百零〇甲乙丙丁]{1,6}(?:[-－~之#][0-9A-Za-z]{1,5}){0,3}"
_UNIT = "号楼|号院|号|弄|栋|幢|座|单元|楼|室|组|层|房|户|巷|队|区|期"
_STREET = "路|街|道|巷|胡同|弄|里|村|镇|乡|小区|花园|公寓|大厦|广场|家园|苑|园|屯|庄|寨|段|区|城|府|湾|居"
_SIDE = r"(?:[东西南北中][一二三四]?[路段街]?|[一二三四五六七八九十]段)"
_ANCHOR = re.compile(rf"(?:{_STREET}){_SIDE}?[ ]?{_NUMBER}[ ]?(?:{_UNIT})")
_ESTATE = "小区|花园|公寓|大厦|苑|家园|广场|楼"
_VILLAGE = re.compile("村|屯|寨|社区|小区|花园|公寓|苑|家园")
_REGION = re.compile("省|市|自治区|州|盟|区|县|旗|镇|乡|街道")
_LEAST_REGIONS, _FARTHEST_REGION = 2, 9
_TAIL = re.compile(
    rf"(?:[ ,，]?(?:{_NUMBER}[ ]?(?:{_UNIT})|[{_HAN}]{{2,10}}?(?:{_ESTATE}))|[ -]?[0-9]{{3,4}}(?![0-9元万.,年])){{1,6}}"
)
_LONGEST_HEAD = 36
_HEAD = re.compile(rf"[{_HAN}A-Za-z0-9·\-()（） ]*\Z")
_REGIONS = re.compile(
    "北京|上海|天津|重庆|河北|山西|内蒙古|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|广西|海南|四川|贵州|云南"
    "|西藏|陕西|甘肃|青海|宁夏|新疆|香港|澳门|台湾"
)
_LEAD = re.compile(
    "住在|住址|地址|位于|寄到|寄至|寄往|送到|送至|搬到|搬至|搬去|迁至|现居|居住|户籍|家住|改成|改为|更改|变更|就住|我住|住|在|到|是|为|至"
)
_FIRST_REGION = re.compile(rf"[{_HAN}]{{2,3}}?(?:[省市县州区])")

_EN_STREETS = (
    "Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Boulevard|Blvd|Way|Court|Ct|Place|Pl|Square|Sq|Terrace|Crescent"
    "|Close|Parkway"
)
_EN_WORD = r"(?:[A-Z][A-Za-z'’]*|[0-9]{1,3}(?:st|nd|rd|th))"
_EN_ANCHOR = re.compile(
    rf"[0-9](?<![0-9].)[0-9]{{0,4}}[A-Za-z]?,? (?:[NSEW]\.? )?{_EN_WORD}(?: {_EN_WORD}){{0,3}}? "
    rf"(?:{_EN_STREETS})(?![A-Za-z])\.?"
)
_EN_BEFORE = re.compile(
    r"(?:(?:Room|Flat|Unit|Apt|Apartment|Suite|Building|Block|Floor|No\.?) ?[0-9A-Za-z-]{0,6},? ?){1,5}\Z"
)
_EN_AFTER = re.compile(
    r"(?:,? ?(?:Apt|Apartment|Suite|Unit|Flat|Room|Floor|#)\.? ?[0-9A-Za-z-]{1,6})?"
    r"(?:, [A-Z][A-Za-z'’]+(?: [A-Z][A-Za-z'’]+){0,2}){0,4}(?:,? [A-Z]{2}(?![A-Za-z]))?"
    r"(?:,? (?:[0-9]{5,6}(?:-[0-9]{4})?|[A-Z]{1,2}[0-9][0-9A-Z]? [0-9][A-Z]{2})(?![0-9]))?"
)


def find_addresses(text: str) -> Iterator[Found]:
    """The addresses in the plain form ``text``, in no order."""
    if not text.isascii():
        for street in _ANCHOR.finditer(text):
            yield _from_head_to_tail(text, _head(text, street.start()), street.end())
        for village in _VILLAGE.finditer(text):
            head = _head(text, village.start())
            regions = [region.end() for region in _REGION.finditer(text, head, village.start())]
            if len(regions) >= _LEAST_REGIONS and village.start() - regions[-1] < _FARTHEST_REGION:
                yield _from_head_to_tail(text, head, village.end())
    for match in _EN_ANCHOR.finditer(text):
        window = max(0, match.start() - 60)
        before = _EN_BEFORE.search(text[window : match.start()])
        after = _EN_AFTER.match(text, match.end())
        start = match.start() if before is None else window + before.start()
        yield Found(start, match.end() if after is None else after.end(), Kind.ADDRESS)


def _from_head_to_tail(text: str, head: int, end: int) -> Found:
    tail = _TAIL.match(text, end)
    return Found(head, end if tail is None else tail.end(), Kind.ADDRESS)


def _head(text: str, street: int) -> int:
    """Where the address begins whose street (or first region) ends at ``street``: at a region or after a cue."""
    window = max(0, street - _LONGEST_HEAD)
    head = _HEAD.search(text[window:street])
    start = street if head is None else window + head.start()
    region = _REGIONS.search(text, start, street)
    leads = list(_LEAD.finditer(text, start, street))
    if region is not None and (not leads or region.start() < leads[-1].end() or leads[-1].end() == street):
        return region.start()
    if leads and leads[-1].end() < street:
        return leads[-1].end()
    first = _FIRST_REGION.search(text, start, street)
    return start if first is None else first.start()
