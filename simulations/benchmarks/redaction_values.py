"""Made-up personal data, drawn from a seeded generator: what a recogniser must find, and what looks like it and is not.

Written from the standards, not from the recognisers, and it imports nothing of them: a mistake in one is not in the
other. No number is anybody's on purpose.
"""

import random
from collections.abc import Callable

Draw = Callable[[random.Random], str]

_REGIONS = [
    "110105",
    "120101",
    "310115",
    "330106",
    "440305",
    "510107",
    "610113",
    "320506",
    "420111",
    "350203",
    "370202",
    "500103",
    "650102",
    "540102",
    "460105",
]
_SURNAMES = (
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石"
    "姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文"
)
_COMPOUND = ["欧阳", "上官", "司马", "诸葛", "司徒", "皇甫", "慕容", "令狐"]
_GIVEN = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超霞平刚桂英华玉兰红梅鹏飞宇浩然子轩梓涵欣怡雨佳嘉诗琪思远志国建文海波晓小立新春秋雪慧颖婷宏博俊凯泽"
    "天一鑫龙凤莉珍贞素云莲真环爱妹香月莺媛瑞凡嫣巧美露青林倩卉楚秀珊莎锦黛"
)
_ENGLISH = [
    "James",
    "Mary",
    "Robert",
    "Linda",
    "David",
    "Susan",
    "Thomas",
    "Karen",
    "Daniel",
    "Nancy",
    "Paul",
    "Sandra",
    "Kevin",
    "Emily",
    "Brian",
    "Wei",
    "Ling",
]
_FAMILY = [
    "Smith",
    "Johnson",
    "Williams",
    "Brown",
    "Jones",
    "Garcia",
    "Miller",
    "Davis",
    "O'Brien",
    "Wilson",
    "Moore",
    "Taylor",
    "Zhang",
    "Li",
    "Wang",
    "Chen",
    "Lee",
]
_IBANS = {"DE": 18, "GB": 18, "FR": 23, "AT": 16, "ES": 20, "CH": 17, "PT": 21}
_CODE = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_PLATE = "京沪粤浙苏鲁川豫鄂湘闽皖辽陕津渝"
_ROADS = [
    "人民",
    "中山",
    "建国",
    "解放",
    "文三",
    "天府",
    "长安",
    "和平",
    "新华",
    "滨江",
    "学院",
    "科技",
    "延安西",
    "南京东",
    "世纪",
    "深南",
]
_CITIES = [
    "北京市朝阳区",
    "上海市浦东新区",
    "浙江省杭州市西湖区",
    "广东省深圳市南山区",
    "四川省成都市武侯区",
    "江苏省苏州市姑苏区",
    "湖北省武汉市洪山区",
    "陕西省西安市雁塔区",
]
_VILLAGES = ["李家村", "王庄村", "石桥村", "新民屯", "东风社区", "柳林村"]
_TOWNS = [
    "河南省周口市沈丘县槐店镇",
    "山东省临沂市沂水县马站镇",
    "湖南省长沙市宁乡县花明楼镇",
    "云南省大理州宾川县金牛镇",
]
_STREETS = ["Baker", "Oak", "Maple", "King", "Queen", "Park", "Church", "Victoria", "Elm", "Lincoln"]
_TYPES = ["Street", "Road", "Avenue", "Lane", "Drive", "St", "Rd", "Ave"]


_PROVIDERS = ["163.com", "qq.com", "gmail.com", "mail.example.com.cn", "b-ank.co.uk"]


def digits(rng: random.Random, count: int, first: str = "0123456789") -> str:
    """``count`` digits, the first one out of ``first``."""
    return rng.choice(first) + "".join(rng.choice("0123456789") for _ in range(count - 1))


def grouped(number: str, sizes: list[int], separator: str) -> str:
    """``number`` cut into groups of these sizes; what is left over is the last one."""
    parts, at = [], 0
    for size in [*sizes, len(number)]:
        parts.append(number[at : at + size])
        at += size
    return separator.join(part for part in parts if part)


def date(rng: random.Random, first: int = 1945, last: int = 2008) -> str:
    """YYYYMMDD."""
    return f"{rng.randint(first, last)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"


def identity_card(rng: random.Random) -> str:
    """18 characters; one in eight in groups."""
    body = rng.choice(_REGIONS) + date(rng) + digits(rng, 3)
    rest = sum(int(char) * (2 ** (17 - at) % 11) for at, char in enumerate(body)) % 11
    check = next(check for check in range(11) if (rest + check) % 11 == 1)
    card = body + ("X" if check == 10 else str(check))
    card = card.lower() if rng.random() < 0.2 else card
    return grouped(card, [6, 8], " ") if rng.random() < 0.125 else card


def old_identity_card(rng: random.Random) -> str:
    """15 digits."""
    return rng.choice(_REGIONS) + date(rng, 1930, 1985)[2:] + digits(rng, 3)


def luhn_sum(number: str) -> int:
    """0 modulo 10 for a card number."""
    doubled = [int(char) * (1 + at % 2) for at, char in enumerate(reversed(number))]
    return sum(value // 10 + value % 10 for value in doubled)


def bank_card(rng: random.Random) -> str:
    """16 or 19 digits with a check digit; two in five in groups."""
    bank = rng.choice(["622202", "621700", "622848", "621661", "625912", "436742", "552245", "356868", "622588"])
    body = bank + digits(rng, (18 if bank[:2] == "62" and rng.random() < 0.6 else 15) - len(bank))
    card = next(body + check for check in "0123456789" if luhn_sum(body + check) % 10 == 0)
    return grouped(card, [4, 4, 4, 4], rng.choice(" -")) if rng.random() < 0.4 else card


def wrong_bank_card(rng: random.Random) -> str:
    """A card number whose check digit is wrong."""
    card = bank_card(rng)
    return card[:-1] + str((int(card[-1]) + rng.randint(1, 9)) % 10)


def account(rng: random.Random) -> str:
    """A passbook's account: no check digit."""
    return digits(rng, rng.choice([12, 13, 17]), "123789")


def mobile(rng: random.Random) -> str:
    """A mobile number of the mainland, in the ways in which people write it."""
    number = "1" + digits(rng, 10, "3456789")
    written = rng.choice([number, number, number, grouped(number, [3, 4], " "), grouped(number, [3, 4], "-")])
    return rng.choice(["", "", "", "", "+86", "+86 ", "86-", "0086 ", "(+86)"]) + written


def landline(rng: random.Random) -> str:
    """A telephone at home, with its area code."""
    area = rng.choice(["010", "021", "0571", "0755", "028", "029", "0512"])
    number = digits(rng, 8, "2345678")
    return rng.choice(
        [f"{area}-{number}", f"({area}){number}", f"{area} {number}", f"{area}-{number[:4]} {number[4:]}"]
    )


def international(rng: random.Random) -> str:
    """E.164, perhaps with spaces."""
    code, size = rng.choice([("1", 10), ("44", 10), ("852", 8), ("81", 10), ("65", 8), ("49", 10)])
    number = digits(rng, size, "23456789")
    return rng.choice([f"+{code}{number}", f"+{code} {number[:3]} {number[3:]}", f"+{code}-{number[:4]}-{number[4:]}"])


def email(rng: random.Random) -> str:
    """An address at a made-up or a big provider."""
    local = rng.choice(
        ["zhang.wei", "li_ming88", "wang2020", "j.smith", "k-lee+bank", digits(rng, 9, "123456789"), "x.y.z"]
    )
    return f"{local}{rng.randint(0, 99)}@{rng.choice(_PROVIDERS)}"


def credit_code(rng: random.Random) -> str:
    """18 characters of GB 32100-2015."""
    body = rng.choice(["91", "92", "93", "11", "52"]) + rng.choice(_REGIONS) + "".join(rng.choices(_CODE, k=9))
    total = sum(_CODE.index(char) * pow(3, at, 31) for at, char in enumerate(body))
    return body + _CODE[(31 - total % 31) % 31]


def iban(rng: random.Random) -> str:
    """An account of another country, as written or in groups of four."""
    country, size = rng.choice(list(_IBANS.items()))
    body = (rng.choice(["BARC", "MIDL"]) if country == "GB" else "") + digits(rng, size - (4 if country == "GB" else 0))
    number = int("".join(str(int(char, 36)) for char in body + country + "00"))
    whole = f"{country}{98 - number % 97:02}{body}"
    return grouped(whole, [4] * 8, " ") if rng.random() < 0.5 else whole


def passport(rng: random.Random) -> str:
    """An ordinary Chinese passport."""
    return (
        rng.choice(["E", "G"]) + digits(rng, 8, "1345678")
        if rng.random() < 0.7
        else "E" + rng.choice("ABDE") + digits(rng, 7)
    )


def permit(rng: random.Random) -> str:
    """A permit to travel between the mainland, Hong Kong, Macao and Taiwan."""
    return rng.choice(["C", "H", "M"]) + digits(rng, 8, "03456789")


def plate(rng: random.Random) -> str:
    """A number plate, of a petrol or an electric car."""
    city = rng.choice(_PLATE) + rng.choice("ABCDEFGH")
    tail = digits(rng, 5) if rng.random() < 0.5 else rng.choice("DF") + digits(rng, 5)
    return (
        city
        + rng.choice(["", "", "·"])
        + (rng.choice("AKQ") + tail[1:] if len(tail) == 5 and rng.random() < 0.5 else tail)
    )


def chinese_name(rng: random.Random) -> str:
    """A surname and one or two characters."""
    family = rng.choice(_COMPOUND) if rng.random() < 0.03 else rng.choice(_SURNAMES)
    return family + "".join(rng.choices(_GIVEN, k=1 if rng.random() < 0.2 else 2))


def english_name(rng: random.Random) -> str:
    """A first name and a family name."""
    return f"{rng.choice(_ENGLISH)} {rng.choice(_FAMILY)}"


def chinese_address(rng: random.Random) -> str:
    """A street with a number, or a village."""
    if rng.random() < 0.15:
        return (
            rng.choice(_TOWNS)
            + rng.choice(_VILLAGES)
            + rng.choice(["", f"{rng.randint(1, 9)}组", f"{rng.randint(1, 99)}号"])
        )
    city = rng.choice(_CITIES) if rng.random() < 0.85 else ""
    street = f"{rng.choice(_ROADS)}路{rng.randint(1, 999)}号"
    rest = [
        "",
        f"{rng.randint(1, 30)}栋{rng.randint(101, 3202)}室",
        f"{rng.randint(1, 9)}号楼{rng.randint(1, 6)}单元{rng.randint(101, 999)}",
    ]
    return city + street + rng.choice(rest)


def english_address(rng: random.Random) -> str:
    """A house number and a street, perhaps with a flat and a town."""
    street = f"{rng.randint(1, 9999)} {rng.choice(_STREETS)} {rng.choice(_TYPES)}"
    return street + rng.choice(["", f", Apt {rng.randint(1, 99)}", ", London", ", Springfield, IL 62704"])


def code(rng: random.Random) -> str:
    """A one-time code."""
    return digits(rng, rng.choice([4, 6, 6, 6, 8]))


def password(rng: random.Random) -> str:
    """Letters, digits and perhaps a sign."""
    return (
        rng.choice(["Abc", "qwe", "Zw", "hunter", "Pass"])
        + digits(rng, rng.randint(3, 6))
        + rng.choice(["", "!", "@x"])
    )


def order(rng: random.Random) -> str:
    """The number of an order: a date and a serial number."""
    return date(rng, 2021, 2026) + digits(rng, rng.choice([6, 8, 10]))
