"""What a bank tells the coordinator of its ledger: by its own choice, ``disclose_epsilon`` in policy.yaml."""

from collections.abc import Sequence

from fedbank.adapter.update import Disclosure
from fedbank.privacy.accounting import round_up
from fedbank.privacy.budget import Budget
from fedbank.privacy.ledger import Charge
from fedbank_client.policy import DISCLOSURES


def disclosure(choice: str, charges: Sequence[Charge], campaign: str, delta: float) -> Disclosure | None:
    """The epsilon that ``charges`` have spent, at ``delta`` and rounded up; of everything only under ``total``.

    It depends on plans and on how often rounds were executed, never on a record.
    """
    nothing, _, total = DISCLOSURES
    if choice == nothing:
        return None
    book = Budget(None, None, delta)
    return Disclosure(
        round_up(book.spent(charges, campaign).epsilon, 4),
        round_up(book.spent(charges).epsilon, 4) if choice == total else None,
    )
