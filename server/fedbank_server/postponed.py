"""Banks that train at another hour, as they said: not asked again before it."""

from dataclasses import dataclass, replace

from fedbank.adapter.update import Later
from fedbank.aggregation.admit import Refused
from fedbank.errors import UpdateError
from fedbank_server.post import Asked

_DAY_S = 86_400.0
"""The longest that a bank may put off: its hours are those of every day."""
_MARGIN_S = 5.0
"""The bank's clock may be a little behind; four times as much whenever it turns out to be."""
_MOST = 4
"""Postponements of one bank in one attempt at a round, so that nobody keeps a round waiting for ever."""


@dataclass(frozen=True, slots=True)
class _Hour:
    until: float
    instance: str
    attempt: tuple[int, int]
    count: int
    text: str


class Postponed:
    """Until when each bank waits. Times are seconds since 1970, by the coordinator's clock."""

    def __init__(self) -> None:
        self._hours: dict[str, _Hour] = {}

    def note(self, asked: Asked, attempt: int, text: str, now: float) -> Refused | None:
        """A bank's answer ``text`` to ``asked``; the refusal that it counts as if it is none, or one too many."""
        try:
            later = Later.from_text(text)
        except UpdateError as error:
            return Refused(asked.bank, "hour", str(error))
        before, this = self._hours.get(asked.bank), (asked.round, attempt)
        count = 1 + (before.count if before is not None and before.attempt == this else 0)
        if count > _MOST:
            return Refused(asked.bank, "hour", f"Expected it to train at the hour that it named, got {text} again.")
        until = min(max(later.until.timestamp(), now) + _MARGIN_S * 4 ** (count - 1), now + _DAY_S)
        shown = f"trains from {later.until:%Y-%m-%d %H:%M} UTC on"
        self._hours[asked.bank] = _Hour(until, asked.instance, this, count, shown)
        return None

    def asked(self, bank: str) -> None:
        """It has been asked again: nobody waits for its hour any more."""
        if bank in self._hours:
            self._hours[bank] = replace(self._hours[bank], until=0.0)

    def is_waiting(self, bank: str, instance: str, now: float) -> bool:
        """Whether it is not time yet; a bank that was started anew is asked anew."""
        hour = self._hours.get(bank)
        return hour is not None and now < hour.until and instance == hour.instance

    def reason(self, bank: str) -> str:
        """What the bank said, for people."""
        return self._hours[bank].text

    def hours(self, banks: set[str], now: float) -> list[float]:
        """When those of ``banks`` that wait can be asked again, earliest first."""
        return sorted(hour.until for bank, hour in self._hours.items() if bank in banks and now < hour.until)
