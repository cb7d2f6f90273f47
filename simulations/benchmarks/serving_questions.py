"""Customers of a bank and what they ask it: Chinese and English, with personal data and without."""

import random
import time
from contextlib import aclosing

from fedbank.data.redact import RefusedTextError, redact
from fedbank.serving.answering import Answered, Answering, Asker, Delta, Question
from simulations.benchmarks.redaction_set import generate

CUSTOMERS = 500
_PLAIN = (
    "我要开户，需要带什么材料？",
    "How long does a transfer abroad take, and what is the fee?",
    "定期存款提前支取利息怎么算？",
    "Can I change my phone number in the app?",
)


def questions(count: int) -> list[str]:
    """A half with personal data, a half without; none with a secret, which would be refused."""
    rng, found = random.Random(2), []
    for example in generate(3 * count, seed=3):
        try:
            redact(example.text)
        except RefusedTextError:
            continue
        found.append(example.text if rng.random() < 0.75 else rng.choice(_PLAIN))
    return found[:count]


class Customers:
    """Who asks what: 500 customers, every second question in the conversation that its customer had last."""

    def __init__(self) -> None:
        self._texts, self._sessions = questions(4000), dict[int, str | None]()
        self.first_ms: list[float] = []

    def next(self, number: int) -> tuple[int, str, str | None]:
        """Customer, question, session."""
        customer = number * 7919 % CUSTOMERS
        session = self._sessions.get(customer) if number % 2 else None
        return customer, self._texts[number % len(self._texts)], session

    def heard(self, customer: int, session: str | None) -> None:
        """The session that the customer may go on with."""
        self._sessions[customer] = session

    async def ask(self, answering: Answering, number: int, due: float) -> None:
        """One question to its end, in this process."""
        customer, text, session = self.next(number)
        waiting = True
        asker = Asker(f"{customer:032x}", f"C-{customer}")
        async with aclosing(answering.ask(asker, Question(text, session))) as events:
            async for event in events:
                if isinstance(event, Delta) and waiting:
                    self.first_ms.append(1000 * (time.perf_counter() - due))
                    waiting = False
                if isinstance(event, Answered):
                    self.heard(customer, event.session_id)
