"""Row 35 of the table of faults: whatever hostile clients send to the service, others are answered as before."""

import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from attacked_bank import AttackedBank
from hostile_clients import IDLE, WORD

pytestmark = [pytest.mark.slow, pytest.mark.fault(35)]
Seen = Callable[[str], None]
MOST_RATIO, MOST_GROWTH_MIB = 2.0, 96
REFUSED = {400, 401, 403, 404, 405, 413, 415, 422, 429}
ATTACKS = {  # what may come back, what has to, and how many principals the attacker has
    "bodies": (REFUSED | {200}, {400, 403, 404, 413, 422}, 8),
    "large": (REFUSED, {413, 415}, 4),
    "headers": (REFUSED, {400, 401, 404, 405, 415}, 2),
    "smuggling": (REFUSED, {400}, 2),
    "pipelined": ({200}, {200}, 1),
    "strangers": ({401}, {401}, 1),
    "cut": ({200, 429}, {200}, 1),
    "sessions": ({200, 429}, {200, 429}, 1),
}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedBank]:
    made = AttackedBank(tmp_path_factory.mktemp("attacked"))
    try:
        made.p95_ms()  # everything is loaded
        made.rss_at_first_mib = made.rss_mib
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_gets_what_it_should_frees_its_slots_and_slows_nobody_down(
    bank: AttackedBank, attack: str, seen: Seen
) -> None:
    may, must, subjects = ATTACKS[attack]
    measured = bank.measured(attack, subjects)
    freed_s = bank.wait_free()
    others = Counter({status: count for status, count in measured.seen.items() if status not in may})
    assert not others, f"statuses {dict(others)}; 1000 and more: a request hidden in another's body was answered"
    assert must <= set(measured.seen), dict(measured.seen)
    assert measured.ratio <= MOST_RATIO, measured
    seen(f"{attack}: {told(measured.seen)}; p95 of others x {measured.ratio:.2f}, slots free after {freed_s:.1f} s")


def test_a_thousand_idle_connections_and_slow_ones_keep_nobody_out(bank: AttackedBank, seen: Seen) -> None:
    before = bank.open_files
    ratios = []
    for attack in ("idle", "slow"):
        measured = bank.measured(attack, pause_s=0.5)
        ratios.append(measured.ratio)
        if attack == "idle":
            assert measured.seen[1] >= IDLE
    bank.wait_until(lambda: bank.open_files <= before + 4, 20)
    assert max(ratios) <= MOST_RATIO, ratios
    seen(f"{IDLE} idle, 100 of a byte a second, 20 that never read: p95 of others x {max(ratios):.2f}")


def test_after_all_of_it_memory_has_hardly_grown_and_no_word_of_anybody_is_in_a_log_or_a_metric(
    bank: AttackedBank, seen: Seen
) -> None:
    bank.wait_free()
    grown = bank.rss_mib - bank.rss_at_first_mib
    assert grown < MOST_GROWTH_MIB
    text = bank.told()
    assert "POST /v1/query 413" in text and "fedbank_events_total" in text, "logs and metrics were read"
    assert "Traceback" not in text and " 500 " not in text
    words = (WORD, "customer-", "eyJ", "open an account", *bank.sessions)
    assert [word for word in words if re.search(re.escape(word), text, re.IGNORECASE)] == []
    seen(f"all of it: {grown:+.0f} MiB; nobody's words, names, tokens or sessions in log, output and metrics")


def told(seen: Counter[int]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in sorted(seen.items()))
