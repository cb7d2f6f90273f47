"""How the banks' updates become one change of the global adapter, and how the adapter is kept in shape.

NumPy only. All rules weight the banks with public numbers. Rules differ in what banks train:

* ``fedavg``: A and B, averaged one by one (McMahan et al. 2017). Biased, since the mean of the products is not
  the product of the means, and under noise the two noises multiply.
* ``ffa``: B only, A as it was at the start (FFA-LoRA, Sun et al. 2024, arXiv:2403.12313): the average is exact.
* ``fedsvd``: as ``ffa``; after every round BA = UΣVᵀ, A ← Vᵀ, B ← UΣ (FedSVD, arXiv:2505.12805).
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedbank.adapter.state import AdapterSpec, Released, Tensors

RULES: Mapping[str, str] = {"fedavg": "AB", "ffa": "B", "fedsvd": "B"}
"""Every rule with what banks train under it."""


def average(updates: Iterable[Released], weights: Sequence[float]) -> dict[str, NDArray[np.float32]]:
    """Σ w_i·u_i / Σ w_i per tensor, accumulated in fp64 in the order given.

    Takes one update at a time: of an iterable that makes them as they are asked for, one is in memory.
    """
    total, coming = sum(weights), iter(updates)
    sums: dict[str, NDArray[np.float64]] = {}
    for weight in weights:
        update = next(coming)
        for name in update:
            if name not in sums:
                sums[name] = np.zeros(update[name].shape, np.float64)
            sums[name] += (weight / total) * update[name]
        del update  # before the next one is made
    return {name: sums.pop(name).astype(np.float32) for name in list(sums)}


def refactor(
    spec: AdapterSpec, state: Tensors
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float64]]]:
    """FedSVD's re-factorisation: the same products BA with A's rows orthonormal and B's columns by importance.

    Returns the new state and, per B tensor, the (r, r) matrix R with B_new = B·R, which carries whatever
    lives in B's coordinates (a server's momentum) over to the new ones. Works on r × r matrices: the products
    are never formed. Signs are fixed so that the result is unique for distinct singular values.
    """
    refactored = dict(state)
    rotations = {}
    for pair in spec.pairs:
        a, b = state[pair.a_name].astype(np.float64), state[pair.b_name].astype(np.float64)
        qa, ra = np.linalg.qr(a.T)  # A = raᵀ qaᵀ
        qb, rb = np.linalg.qr(b)
        u, singular, vt = np.linalg.svd(rb @ ra.T)
        new_a = vt @ qa.T
        signs = np.sign(new_a[np.arange(len(new_a)), np.abs(new_a).argmax(axis=1)])
        new_a, new_b = signs[:, None] * new_a, (qb @ u) * (singular * signs)
        refactored[pair.a_name], refactored[pair.b_name] = new_a.astype(np.float32), new_b.astype(np.float32)
        rotations[pair.b_name] = a @ new_a.T
    return refactored, rotations
