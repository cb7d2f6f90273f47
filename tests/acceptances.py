"""An acceptance as an honest bank writes it, and every lie about it. Plain JSON: nothing of the code under test.

``TERMS`` and ``SIZE`` fix every number. The noise was worked out once and is written down here.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

TERMS = (
    "privacy.epsilon=3",
    "privacy.clip_norm=0.5",
    "training.rounds=1",
    "training.local_steps=2",
    "training.expected_batch=16",
    "training.records_per_customer=2",
    "training.optimizer=sgd",
)
SIZE, NOISE = 200, 0.7684
NUMBERS: dict[str, Any] = {
    "sampling": {"sampling_prob": 0.08, "expected_batch_size": 16.0, "records_per_customer": 2, "num_steps": 2},
    "noise_multiplier": NOISE,
    "clip_norm": 0.5,
    "delta": 1e-05,
    "target_epsilon": 3.0,
    "unit": "customer",
    "neighbouring_relation": "add_or_remove_one",
    "trust_mode": "silo",
    "grid_steps": 1048576,
}
Lie = Callable[[dict[str, Any]], bytes | None]
"""Changes the fields of an honest acceptance; returns what is sent if that is no JSON of the fields."""


def digest(numbers: Mapping[str, Any]) -> str:
    return hashlib.sha256(("fedbank-plan/2" + json.dumps(numbers, sort_keys=True)).encode()).hexdigest()


def plan_file(numbers: Mapping[str, Any], **more: Any) -> str:
    named = {"format": "fedbank-plan/2", **numbers, "digest": digest(numbers), **more}
    return json.dumps(named, indent=2) + "\n"


def honest(bank: str, campaign: str) -> dict[str, Any]:
    return {
        "format": "fedbank-proposal/1",
        "bank": bank,
        "campaign": campaign,
        "plan_digest": digest(NUMBERS),
        "plan": plan_file(NUMBERS),
        "declared_size": SIZE,
        "epsilon": 3.0,
    }


def written(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def acceptance(bank: str, campaign: str, lie: Lie = lambda fields: None) -> bytes:
    """The payload that ``bank`` signs."""
    fields = honest(bank, campaign)
    other = lie(fields)
    return written(fields) if other is None else other


def numbers(**changes: Any) -> Lie:
    """Other numbers in the plan, with a digest that belongs to them; those of the sampling by their names too."""
    sampling = {name: changes.pop(name) for name in list(changes) if name in NUMBERS["sampling"]}

    def lie(fields: dict[str, Any]) -> None:
        other = {**NUMBERS, **changes, "sampling": {**NUMBERS["sampling"], **sampling}}
        fields.update(plan=plan_file(other), plan_digest=digest(other))

    return lie


def text(change: Callable[[str], str]) -> Lie:
    """Another text of the plan, under the digest of the right one."""
    return lambda fields: fields.update(plan=change(fields["plan"]))


def fields(**changes: Any) -> Lie:
    """Other fields of the acceptance."""
    return lambda found: found.update(changes)


def sent(change: Callable[[bytes], bytes]) -> Lie:
    """Other bytes."""
    return lambda found: change(written(found))


def larger(found: dict[str, Any]) -> None:
    """Not a lie by itself: what a bank of twice the size accepts."""
    numbers(sampling_prob=0.04, noise_multiplier=0.6653)(found)
    found["declared_size"] = 400


def without(name: str) -> Lie:
    return text(lambda plan: json.dumps({key: value for key, value in json.loads(plan).items() if key != name}))


LIES: dict[str, tuple[Lie, str]] = {
    # the plan says something else, and its digest belongs to that
    "loose: a huge noise that widens the norm bound": (numbers(noise_multiplier=1e4), "least noise"),
    "one per cent more noise": (numbers(noise_multiplier=0.7761), "least noise"),
    "half the noise": (numbers(noise_multiplier=0.4), "costs"),
    "two per cent less noise": (numbers(noise_multiplier=0.753), "costs"),
    "noise that protects nobody": (numbers(noise_multiplier=0.01), "noise multiplier"),
    "negative noise": (numbers(noise_multiplier=-0.7684), "noise multiplier"),
    "noise as a whole number": (numbers(noise_multiplier=1), "finite noise_multiplier"),
    "nan: noise that is no number": (numbers(noise_multiplier=float("nan")), "finite noise_multiplier"),
    "noise without end": (numbers(noise_multiplier=float("inf")), "finite noise_multiplier"),
    "noise of 1e400": (text(lambda plan: plan.replace("0.7684", "1e400")), "finite noise_multiplier"),
    "clip: another clip norm": (numbers(clip_norm=0.1), "clip_norm 0.5"),
    "a clip norm of 1e300": (numbers(clip_norm=1e300), "clip_norm 0.5"),
    "zero: an expected batch of nothing": (numbers(expected_batch_size=0), "expected_batch_size 16.0"),
    "infinite: an expected batch of 1e-300": (numbers(expected_batch_size=1e-300), "expected_batch_size 16.0"),
    "an expected batch of 1e308": (numbers(expected_batch_size=1e308), "expected_batch_size 16.0"),
    "an expected batch without end": (numbers(expected_batch_size=float("inf")), "expected_batch_size 16.0"),
    "an expected batch as a whole number": (numbers(expected_batch_size=16), "expected_batch_size 16.0"),
    "q doubled": (numbers(sampling_prob=0.16), "sampling_prob 0.08"),
    "q halved": (numbers(sampling_prob=0.04), "sampling_prob 0.08"),
    "one step fewer": (numbers(num_steps=1), "num_steps 2"),
    "as many steps as fit": (numbers(num_steps=2**20), "num_steps 2"),
    "true steps": (numbers(num_steps=True), "num_steps 2"),
    "more records of a customer": (numbers(records_per_customer=3), "records_per_customer 2"),
    "a larger delta": (numbers(delta=1e-4), "delta 1e-05"),
    "a delta that is none": (numbers(delta=float("nan")), "delta 1e-05"),
    "epsilon of the terms exceeded": (numbers(target_epsilon=4.0), "target_epsilon 3.0"),
    "epsilon of the terms undercut": (numbers(target_epsilon=2.0), "target_epsilon 3.0"),
    "single records protected only": (numbers(unit="record", records_per_customer=1), "records_per_customer 2"),
    "another unit": (numbers(unit="record"), "unit 'customer'"),
    "another relation": (numbers(neighbouring_relation="replace_one"), "neighbouring_relation"),
    "noise shared by the banks": (numbers(trust_mode="distributed"), "trust_mode 'silo'"),
    "another grid": (numbers(grid_steps=1), "grid_steps 1048576"),
    "a sampling that is a list": (text(lambda plan: json.dumps({**json.loads(plan), "sampling": [0.08]})), "sampling"),
    # the text of the plan is not the plan's file
    "unreadable": (text(lambda plan: "not json"), "can be read"),
    "no plan": (text(lambda plan: ""), "can be read"),
    "a plan that is a list": (text(lambda plan: "[]"), "can be read"),
    "a plan nested without end": (text(lambda plan: "[" * 2000), "can be read"),
    "an object nested without end": (text(lambda plan: '{"a":' * 400 + "1" + "}" * 400), "sampling_prob"),
    "a plan of 60,000 characters": (text(lambda plan: plan + " " * 60_000), "can be read"),
    "manifest: a plan without delta": (without("delta"), "delta 1e-05"),
    "a plan without its digest": (without("digest"), "text of the plan"),
    "a field more": (text(lambda plan: plan_file(NUMBERS, note="x")), "text of the plan"),
    "a field twice": (text(lambda plan: plan.replace("{\n", '{\n  "delta": 0.5,\n', 1)), "text of the plan"),
    "noise twice": (
        text(lambda plan: plan.replace("{\n", '{\n  "noise_multiplier": 10000.0,\n', 1)),
        "text of the plan",
    ),
    "noise spelled otherwise": (text(lambda plan: plan.replace("0.7684", "7684e-4")), "text of the plan"),
    "another indentation": (text(lambda plan: json.dumps(json.loads(plan), indent=4) + "\n"), "text of the plan"),
    "a digest in capitals": (text(lambda plan: plan.replace(digest(NUMBERS), digest(NUMBERS).upper())), "text of the"),
    "a surrogate in the plan": (text(lambda plan: plan.replace('"silo"', '"\ud800"')), "fedbank-proposal/1"),
    "an escape sequence in the plan": (text(lambda plan: plan.replace('"silo"', '"\\u001b[31m[/x]"')), "trust_mode"),
    # the acceptance itself
    "surrogate: a digest that is no text": (fields(plan_digest="\ud800"), "plan_digest"),
    "another digest": (fields(plan_digest="0" * 64), "plan_digest"),
    "the digest in capitals": (fields(plan_digest=digest(NUMBERS).upper()), "plan_digest"),
    "epsilon 0": (fields(epsilon=0.0), "positive epsilon"),
    "another epsilon": (fields(epsilon=2.5), "epsilon 3.0"),
    "a whole epsilon": (fields(epsilon=3), "type of value as epsilon"),
    "no epsilon": (fields(epsilon=None), "epsilon 3.0"),
    "epsilon without end": (sent(lambda found: found.replace(b'"epsilon":3.0', b'"epsilon":Infinity')), "epsilon"),
    "hugeint: a size of 10^400": (fields(declared_size=10**400), "fedbank-proposal/1"),
    "a size of 10^5000": (sent(lambda found: found.replace(b":200,", b":1" + b"0" * 5000 + b",")), "something else"),
    "weight: a size of 10^15": (fields(declared_size=10**15), "a declared size from 1 to"),
    "a size just above the limit": (fields(declared_size=1_100_000_000), "a declared size from 1 to"),
    "no customers": (fields(declared_size=0), "customers"),
    "a negative size": (fields(declared_size=-200), "customers"),
    "the true size": (fields(declared_size=203), "rounded down"),
    "twice the size under the same plan": (fields(declared_size=400), "sampling_prob 0.04"),
    "half the size under the same plan": (fields(declared_size=100), "sampling_prob 0.16"),
    "another bank's consent": (fields(bank="bank-a"), "the consent of bank-c"),
    "another campaign": (fields(campaign="trial-0000000000000000"), "to trial-"),
    "a name with an escape sequence": (fields(bank="\x1b[31m[/x]"), "the consent of bank-c"),
    "another format": (fields(format="fedbank-proposal/2"), "fields"),
    "a field more in the acceptance": (fields(loss=0.1), "fields"),
    "the acceptance spelled otherwise": (sent(lambda found: found.replace(b",", b", ", 1)), "canonical"),
    "a size twice": (sent(lambda found: found.replace(b"{", b'{"declared_size":900,', 1)), "fedbank-proposal/1"),
    "an acceptance nested without end": (sent(lambda found: b"[" * 60_000), "something else"),
    "no text": (sent(lambda found: b"\xff\xfe\x00"), "something else"),
    "nothing": (sent(lambda found: b""), "something else"),
}
"""What a member could send instead, and what its refusal says. ``bank-c`` is the liar."""
