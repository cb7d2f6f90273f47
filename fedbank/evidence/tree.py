"""The Merkle tree of RFC 6962 (section 2.1), with the proofs of RFC 9162 (section 2.1), over hashes of leaves.

Leaves and nodes are hashed with different prefixes, so that a node can never be passed off as an entry.
"""

from collections.abc import Sequence
from hashlib import sha256

from fedbank.evidence.errors import EvidenceError

HASH_BYTES = 32


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


class Edge:
    """The right edge of a growing tree: the roots of its perfect subtrees, largest first; at most 64 of them."""

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Append the hash of a leaf; two hashes a leaf on average."""
        self.size += 1
        node, rest = leaf, self.size
        while rest % 2 == 0:
            node, rest = node_hash(self._roots.pop(), node), rest // 2
        self._roots.append(node)

    def root(self) -> bytes:
        """The root of the whole tree; SHA-256 of nothing for an empty one."""
        if not self._roots:
            return sha256(b"").digest()
        node = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            node = node_hash(left, node)
        return node

    def copy(self) -> "Edge":
        """An edge that grows independently of this one."""
        other = Edge()
        other.size, other._roots = self.size, list(self._roots)
        return other


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over ``leaves`` (hashes)."""
    edge = Edge()
    for leaf in leaves:
        edge.add(leaf)
    return edge.root()


def prove_inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf ``index`` in the tree over ``leaves`` (RFC 6962, section 2.1.1)."""
    if not 0 <= index < len(leaves):
        raise EvidenceError(f"Expected the number of one of {len(leaves)} entries, got {index}.")
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*prove_inclusion(leaves[:split], index), root_of(leaves[split:])]
    return [*prove_inclusion(leaves[split:], index - split), root_of(leaves[:split])]


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """``EvidenceError`` unless ``leaf`` is number ``index`` of the ``size`` under ``root`` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        raise EvidenceError(f"Expected the number of one of {size} entries, got {index}.")
    number, last, node = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise _no_proof()
        if number % 2 or number == last:
            node = node_hash(step, node)
            while number and number % 2 == 0:
                number, last = number // 2, last // 2
        else:
            node = node_hash(node, step)
        number, last = number // 2, last // 2
    if last != 0 or node != root:
        raise _no_proof()


def prove_consistency(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """That the tree over ``leaves`` begins with its first ``first`` leaves (RFC 6962, section 2.1.2)."""
    if not 0 <= first <= len(leaves):
        raise EvidenceError(f"Expected a size from 0 to {len(leaves)} entries, got {first}.")
    return [] if first in (0, len(leaves)) else _prove_prefix(leaves, first, whole=True)


def check_consistency(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> None:
    """``EvidenceError`` unless a tree of size ``second`` begins with that of size ``first`` (RFC 9162, 2.1.4.2)."""
    if not 0 <= first <= second:
        raise EvidenceError(f"Expected a log that grew from {first} entries, got one of {second}: it was cut.", second)
    if first in (0, second):
        if proof or (first == second and first_root != second_root) or (first == 0 and first_root != root_of([])):
            raise _no_proof()
        return
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    number, last = first - 1, second - 1
    while number % 2:
        number, last = number // 2, last // 2
    if not path:
        raise _no_proof()
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            raise _no_proof()
        if number % 2 or number == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while number and number % 2 == 0:
                number, last = number // 2, last // 2
        else:
            new = node_hash(new, step)
        number, last = number // 2, last // 2
    if last != 0 or old != first_root or new != second_root:
        raise _no_proof()


def _prove_prefix(leaves: Sequence[bytes], first: int, *, whole: bool) -> list[bytes]:
    """``whole``: the verifier knows the root of these ``first`` leaves already (SUBPROOF's ``b``)."""
    if first == len(leaves):
        return [] if whole else [root_of(leaves)]
    split = _split(len(leaves))
    if first <= split:
        return [*_prove_prefix(leaves[:split], first, whole=whole), root_of(leaves[split:])]
    return [*_prove_prefix(leaves[split:], first - split, whole=False), root_of(leaves[:split])]


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return int(1 << (size - 1).bit_length() - 1)


def _no_proof() -> EvidenceError:
    return EvidenceError(
        "Expected a proof that leads to the signed root, got one that does not: the log was rewritten or the proof is "
        "of another. Keep both checkpoints and ask the other members for theirs."
    )
