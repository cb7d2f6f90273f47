"""Divide the customers of one data set among simulated banks: by key, by Dirichlet mix, or evenly mixed.

A customer belongs to exactly one bank and none is lost. Bank ``i`` (from 0) has a share of the customers
proportional to ``(i + 1) ** -size_exponent``: 0 makes equal banks, 1 is Zipf's law. Real consortia do not
divide their customers like this; it stands in for them where no bank may show its log.

The Dirichlet partition follows Hsu, Qi and Brown 2019 (arXiv:1909.06335, section 3): each bank has a mix of
keys ``q ~ Dir(c p)``, where ``p`` are the keys' shares of all customers, and fills its places from ``q``
without replacement. We set ``c = alpha * keys``, so ``alpha`` is the mean concentration per key: with equally
frequent keys ``q`` is the usual symmetric Dirichlet(alpha), and their alpha is ours times the number of keys.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedbank.data.units import Unit
from fedbank.errors import ConfigError, DataError

# Shape suffixes: B banks, K keys, N customers.
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """How to divide customers among ``banks`` banks.

    ``alpha`` is used by kind ``dirichlet`` only: small makes banks specialists, large makes them alike.
    ``size_exponent`` is the power law of the sizes. A bank must get ``min_customers`` customers.
    """

    kind: Literal["key", "dirichlet", "iid"]
    banks: int
    alpha: float = 0.5
    size_exponent: float = 0.0
    min_customers: int = 1

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        if self.kind not in ("key", "dirichlet", "iid"):
            raise ConfigError(f"Expected the partition key, dirichlet or iid, got {self.kind!r}.")
        if self.banks < 1:
            raise ConfigError(f"Expected a partition into 1 bank or more, got {self.banks}.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(f"Expected a partition alpha above 0, got {self.alpha}.")
        if not 0 <= self.size_exponent <= 10:
            raise ConfigError(f"Expected a partition size_exponent from 0 to 10, got {self.size_exponent}.")
        if self.min_customers < 1:
            raise ConfigError(f"Expected a partition min_customers of 1 or more, got {self.min_customers}.")


def partition(units: Sequence[Unit], spec: PartitionSpec, *, rng: np.random.Generator) -> dict[str, list[Unit]]:
    """Bank name → its customers, in the order of ``units``; banks are named ``bank-1`` to ``bank-N``.

    Names are padded with zeros to one length (``bank-01`` where N is 10), so they sort in order.
    ``iid`` and ``dirichlet``: sizes are the power law, rounded by largest remainder; exact for every draw.
    ``dirichlet``: a bank whose keys are sold out fills its places from what is left, so the very skewed
    mixes of a small ``alpha`` are met as far as the supply of each key allows.
    ``key``: a key goes to one bank as a whole, the largest first, to the bank that is smallest for its
    share; sizes follow the power law as closely as that allows, and ``rng`` is not used.

    Raises:
        DataError: more banks than keys (kind ``key``), or a bank with fewer than ``min_customers``.
        ValueError: two units have the same customer.
    """
    if len({unit.customer for unit in units}) != len(units):
        raise ValueError("two units have the same customer; group inquiries with group_by_customer first")
    share_B = np.arange(1, spec.banks + 1, dtype=np.float64) ** -spec.size_exponent
    share_B /= share_B.sum()
    if spec.kind == "key":
        bank_N = _by_key(units, share_B)
    elif spec.kind == "iid":
        bank_N = rng.permutation(np.repeat(np.arange(spec.banks), _sizes(len(units), share_B)))
    else:
        bank_N = _by_mix(units, share_B, spec.alpha, rng)
    width = len(str(spec.banks))
    names = [f"bank-{number:0{width}d}" for number in range(1, spec.banks + 1)]
    divided: dict[str, list[Unit]] = {name: [] for name in names}
    for unit, bank in zip(units, bank_N.tolist(), strict=True):
        divided[names[bank]].append(unit)
    _check_sizes(divided, spec)
    return divided


def _check_sizes(divided: dict[str, list[Unit]], spec: PartitionSpec) -> None:
    name, smallest = min(divided.items(), key=lambda item: len(item[1]))
    if len(smallest) < spec.min_customers:
        total = sum(len(own) for own in divided.values())
        raise DataError(
            f"Expected at least {spec.min_customers} customers (min_customers) at every bank, got "
            f"{len(smallest)} at {name} when {total} customers are divided among {spec.banks} banks. "
            "Use fewer banks, more customers, a smaller size_exponent or a smaller min_customers."
        )


def _sizes(total: int, share_B: _Floats) -> _Ints:
    """Integers that sum to ``total``, each within 1 of its share (largest remainder, ties to the first)."""
    exact_B = total * share_B
    size_B = np.floor(exact_B).astype(np.int64)
    missing = total - int(size_B.sum())
    size_B[np.argsort(size_B - exact_B, kind="stable")[:missing]] += 1
    return size_B


def _key_indices(units: Sequence[Unit]) -> dict[str, list[int]]:
    """Key → positions in ``units``, keys in alphabetical order."""
    found: dict[str, list[int]] = {}
    for index, unit in enumerate(units):
        found.setdefault(unit.key, []).append(index)
    return dict(sorted(found.items()))


def _by_key(units: Sequence[Unit], share_B: _Floats) -> _Ints:
    keys = _key_indices(units)
    if len(share_B) > len(keys):
        raise DataError(
            f"Expected at least as many keys as banks in a partition by key, got {len(keys)} keys for "
            f"{len(share_B)} banks. Use at most {len(keys)} banks, another key column or kind dirichlet."
        )
    # Empty banks come first at load 0, so every bank gets a key before any gets its second.
    heap = [(0.0, bank, 0) for bank in range(len(share_B))]
    bank_N = np.empty(len(units), dtype=np.int64)
    for indices in sorted(keys.values(), key=len, reverse=True):
        _, bank, size = heap[0]
        bank_N[indices] = bank
        size += len(indices)
        heapq.heapreplace(heap, (size / share_B[bank], bank, size))
    return bank_N


def _by_mix(units: Sequence[Unit], share_B: _Floats, alpha: float, rng: np.random.Generator) -> _Ints:
    indices = [np.array(own, dtype=np.int64) for own in _key_indices(units).values()]
    bank_N = np.empty(len(units), dtype=np.int64)
    if not indices:
        return bank_N
    supply_K = np.array([len(own) for own in indices], dtype=np.int64)
    mix_BK = rng.dirichlet(alpha * len(indices) * supply_K / supply_K.sum(), size=len(share_B))
    count_BK = _fill(mix_BK, _sizes(len(units), share_B), supply_K, rng)
    for key, own in enumerate(indices):
        bank_N[rng.permutation(own)] = np.repeat(np.arange(len(share_B)), count_BK[:, key])
    return bank_N


def _fill(mix_BK: _Floats, size_B: _Ints, supply_K: _Ints, rng: np.random.Generator) -> _Ints:
    """Customers per bank and key with row sums ``size_B`` and column sums ``supply_K`` (equal totals).

    All banks draw their open places at once, each from its own mix over the keys still in supply. Where a
    key is asked for more often than it is there, the draws that are granted are a uniform sample of those
    made, so no bank is served before another, and the rest is drawn again without that key. Each pass but the
    last uses up a key, so there are at most K + 1.
    """
    count_BK = np.zeros(mix_BK.shape, dtype=np.int64)
    open_B, left_K = size_B.copy(), supply_K.copy()
    while open_B.any():
        rows = np.flatnonzero(open_B)
        weight_BK = np.where(left_K > 0, mix_BK[rows], 0.0)
        total_B = weight_BK.sum(axis=1, keepdims=True)
        # A bank with none of its own keys left takes from what is left.
        mix = np.where(total_B > 0, weight_BK / np.where(total_B > 0, total_B, 1.0), left_K / left_K.sum())
        asked_BK = rng.multinomial(open_B[rows], mix)
        for key in np.flatnonzero(asked_BK.sum(axis=0) > left_K):
            asked_BK[:, key] = rng.multivariate_hypergeometric(asked_BK[:, key], left_K[key])
        count_BK[rows] += asked_BK
        open_B[rows] -= asked_BK.sum(axis=1)
        left_K -= asked_BK.sum(axis=0)
    return count_BK
