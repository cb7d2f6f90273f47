"""Numbers that carry their own check: what their standards say, on digits and letters without separators."""

from datetime import date

_REGIONS = "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83"
PROVINCES = frozenset(_REGIONS[at : at + 2] for at in range(0, len(_REGIONS), 3))
"""GB/T 2260: the first two digits of every region code; 83 is on the residence permits of residents of Taiwan."""

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK = "10X98765432"
_CODE_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CODE_WEIGHTS = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

_IBANS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 "
    "EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 "
    "IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 "
    "NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 "
    "SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30 "
)
IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBANS.split()}
"""Country -> characters of an IBAN, from the registry that SWIFT keeps for ISO 13616."""


def identity_card(number: str) -> bool:
    """GB 11643-1999: 17 digits and a check character (ISO 7064 MOD 11-2), with a region and a date of birth."""
    if not _born_somewhere(number, number[6:14]):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, number[:17], strict=True))
    return number[17].upper() == _ID_CHECK[total % 11]


def old_identity_card(number: str) -> bool:
    """The 15 digits of before 1999: a region, a date of birth in the twentieth century, no check character."""
    return _born_somewhere(number, "19" + number[6:12])


def unchecked_identity_card(number: str) -> bool:
    """18 characters with a region and a date of birth, whatever the check character: what a slip of a finger leaves."""
    return _born_somewhere(number, number[6:14])


def luhn(number: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    digits = [int(digit) for digit in reversed(number)]
    return (sum(digits[::2]) + sum(_DOUBLED[digit] for digit in digits[1::2])) % 10 == 0


def bank_card(number: str) -> bool:
    """A length and a prefix that are issued (UnionPay, Visa, Mastercard, American Express, JCB, Diners), and Luhn."""
    return _issued(number) and luhn(number)


def credit_code(code: str) -> bool:
    """GB 32100-2015: 18 characters of its alphabet, the last one modulo 31."""
    if any(char not in _CODE_ALPHABET for char in code):
        return False
    total = sum(w * _CODE_ALPHABET.index(char) for w, char in zip(_CODE_WEIGHTS, code[:17], strict=True))
    return code[17] == _CODE_ALPHABET[-total % 31]


def iban(account: str) -> bool:
    """ISO 13616: ISO 7064 MOD 97-10 of the whole, country and check digits moved to the end."""
    moved = account[4:] + account[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def is_date(digits: str) -> bool:
    """YYYYMMDD from 1880 to 2039: whoever can have been born, and every date that an inquiry speaks of."""
    try:
        return 1880 <= date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])).year < 2040
    except ValueError:
        return False


def _born_somewhere(number: str, born: str) -> bool:
    return number[:2] in PROVINCES and is_date(born)


def _issued(number: str) -> bool:
    size, two = len(number), number[:2]
    if two == "62":
        return 16 <= size <= 19
    if size == 16:
        return number[0] in "345" or two in ("60", "65", "68", "90", "95", "94") or "22" <= two <= "27"
    if size == 19:
        return two in ("60", "68", "69", "90", "94", "95", "99") or number[0] == "4"
    return (size == 15 and two in ("34", "37")) or (size == 14 and two in ("36", "38", "39", "30"))
