"""Redaction on a labelled set: recall and precision per kind with Wilson intervals, and megabytes a second on one core.

The set is synthetic and its author knows the recognisers' rules: it shows that what is meant to be found is found in
many surroundings, not how often people write it in other ways.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from math import sqrt
from typing import Any

from fedbank.data.redact import RefusedTextError, redact
from simulations.benchmarks.redaction_set import Example, generate
from simulations.benchmarks.reporting import publish

COUNT, SEED = 20_000, 20261123
CHECKSUMMED = ("identity_card", "bank_card", "credit_code", "iban")
TARGETS = {"overall": 0.995, "name": 0.95} | dict.fromkeys(CHECKSUMMED, 0.999)
PRECISION_TARGET, SPEED_TARGET = 0.95, 5.0
_MOST_BEYOND = 3
"""Characters by which a finding may reach beyond what it should have found and still count as right."""
_QUESTIONS = (
    "请问个人住房贷款提前还款需要收取违约金吗？我想了解一下具体的办理流程和所需材料，谢谢。",
    "What is the annual fee of the platinum card, and can it be waived if I spend more than 20,000 yuan a year?",
    "定期存款三年期利率2.10%，如果提前支取按活期计息，10万元大概损失多少利息？",
    "I would like to know whether the mortgage rate of 3.45% can be adjusted after the first year.",
)

Place = tuple[int, int, str]


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share (95 %)."""
    if total == 0:
        return 0.0, 1.0
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    reach = z * sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def found_in(text: str) -> list[Place]:
    """What redaction says of ``text``; of a refused one, where its secrets are."""
    try:
        return [(span.start, span.end, span.kind.value) for span in redact(text).spans]
    except RefusedTextError as refused:
        return [(start, end, "secret") for start, end in refused.places]


def covers(found: Sequence[Place], gold: Place) -> bool:
    """Whether findings of the right kind leave nothing of ``gold`` out."""
    return any(start <= gold[0] and gold[1] <= end and kind == gold[2] for start, end, kind in found)


def is_right(found: Place, gold: Sequence[Place]) -> bool:
    """Whether the finding is what it says and reaches hardly beyond it."""
    start, end, kind = found
    return any(
        kind == want and start < stop and begin < end and max(0, begin - start) + max(0, end - stop) <= _MOST_BEYOND
        for begin, stop, want in gold
    )


def quality(examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
    """A line for each kind and one for all of them."""
    wanted, covered, found, right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for example in examples:
        places = found_in(example.text)
        for gold in example.gold:
            wanted[gold[2]] += 1
            covered[gold[2]] += covers(places, gold)
        for place in places:
            found[place[2]] += 1
            right[place[2]] += is_right(place, example.gold)
    for counter in (wanted, covered, found, right):
        counter["overall"] = counter.total()
    for kind in wanted:
        yield {
            "kind": kind,
            "wanted": wanted[kind],
            **_share("recall", covered[kind], wanted[kind], TARGETS.get(kind)),
            "found": found[kind],
            **_share("precision", right[kind], found[kind], PRECISION_TARGET),
        }


def _share(name: str, right: int, total: int, target: float | None) -> dict[str, Any]:
    low, high = wilson(right, total)
    line = {name: round(right / max(total, 1), 5), f"{name}_low": round(low, 5), f"{name}_high": round(high, 5)}
    return line if target is None else line | {f"{name}_target": target, f"{name}_met": right >= target * total}


def speed(texts: Sequence[str], what: str) -> dict[str, Any]:
    """Megabytes (UTF-8) a second of processor time; the best of five passes over ``texts``."""
    size = sum(len(text.encode()) for text in texts)
    best = min(_seconds(texts) for _ in range(5))
    line = {"texts": what, "bytes_each": size // len(texts), "mb_per_s": round(size / best / 1e6, 2)}
    return line | {"us_each": round(best / len(texts) * 1e6, 1), "mb_per_s_target": SPEED_TARGET}


def _seconds(texts: Sequence[str]) -> float:
    began = time.process_time()
    for text in texts:
        found_in(text)
    return time.process_time() - began


HOSTILE = (
    "1",
    "1 ",
    "1-1380",
    "验证码",
    "姓名：",
    "市",
    "路1",
    "a@",
    "@",
    "(010)",
    "是",
    "password is ",
    "GB82",
    "A ",
    "<",
    "张",
)
"""What a careless recogniser takes for ever over when it is said often enough."""


def hostile(characters: int) -> dict[str, str]:
    """Texts of that many characters: one piece again and again, and everything in any order."""
    drawn = random.Random(SEED).choices("0123456789 -()+Xx省市区路号村@.AE张姓名：密码是", k=characters)
    numbers = "，".join(f"138{at:08}" for at in range(characters // 12))
    pieces = {piece: (piece * characters)[:characters] for piece in HOSTILE}
    return pieces | {"drawn": "".join(drawn), "numbers": numbers}


def growth(name: str, text: str, tries: int = 1) -> dict[str, Any]:
    """Seconds of processor time for half of the text and for all of it, the least of some tries."""
    half, whole = (min(_seconds([text[:size]]) for _ in range(tries)) for size in (len(text) // 2, len(text)))
    return {"hostile": name, "characters": len(text), "seconds": round(whole, 2), "time_ratio": round(whole / half, 2)}


def lines() -> Iterator[dict[str, Any]]:
    """All lines."""
    examples = list(generate(COUNT, seed=SEED))
    yield from quality(examples)
    rng = random.Random(SEED)
    dense = [example.text for example in examples[:6000]]
    mixed = [rng.choice(dense) if rng.random() < 0.25 else rng.choice(_QUESTIONS) for _ in range(6000)]
    yield speed(mixed, "inquiries, personal data in one of six")
    yield speed(dense, "the set itself, personal data in two of three")
    joined = iter(mixed)
    yield speed(["\n".join(islice(joined, 600)) for _ in range(10)], "logs of 600 such inquiries")
    yield from (growth(name, text) for name, text in hostile(1_000_000).items())


if __name__ == "__main__":
    publish("redaction", lines())
