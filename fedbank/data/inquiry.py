"""The record every data source produces: one answered customer inquiry."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One answered question of one customer.

    ``customer`` is the data subject, the unit of privacy. ``key`` is what a partition by key or a
    Dirichlet partition divides on (a product, a topic, a branch). ``language`` is ``"zh"``, ``"en"`` or ``""``.
    """

    question: str
    answer: str
    customer: str
    key: str
    language: str = ""
