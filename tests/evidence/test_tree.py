from hashlib import sha256

import pytest

from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.tree import (
    Edge,
    check_consistency,
    check_inclusion,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    root_of,
)

PUBLISHED = {
    "": "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "00": "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "10": "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "2021": "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "3031": "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "40414243": "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "5051525354555657": "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "606162636465666768696a6b6c6d6e6f": "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
"""Leaves and the root after each, from the test vectors of Certificate Transparency's implementations."""
SIZES = range(1, 34)


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(count)]


def recursive_root(hashes: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if len(hashes) <= 1:
        return hashes[0] if hashes else sha256(b"").digest()
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return node_hash(recursive_root(hashes[:split]), recursive_root(hashes[split:]))


def test_roots_are_the_published_ones() -> None:
    edge = Edge()
    assert edge.root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for size, (leaf, root) in enumerate(PUBLISHED.items(), start=1):
        edge.add(leaf_hash(bytes.fromhex(leaf)))
        assert (edge.size, edge.root().hex()) == (size, root)


def test_leaves_and_nodes_are_hashed_apart() -> None:
    left, right = leaves(2)
    assert leaf_hash(left + right) != node_hash(left, right)
    assert (
        leaf_hash(b"") == sha256(b"\x00").digest() and node_hash(left, right) == sha256(b"\x01" + left + right).digest()
    )


@pytest.mark.parametrize("size", SIZES)
def test_the_right_edge_gives_the_root_of_the_definition(size: int) -> None:
    assert root_of(leaves(size)) == recursive_root(leaves(size))


def test_the_right_edge_stays_small_and_copies_are_independent() -> None:
    edge = Edge()
    for leaf in leaves(1000):
        edge.add(leaf)
    before, other = edge.root(), edge.copy()
    other.add(bytes(32))
    assert edge.root() == before != other.root() and edge.size == 1000
    assert len(edge._roots) == (1000).bit_count()


@pytest.mark.parametrize("size", SIZES)
def test_every_entry_can_be_shown_to_be_in_the_tree_and_no_other(size: int) -> None:
    hashes, root = leaves(size), root_of(leaves(size))
    for index in range(size):
        proof = prove_inclusion(hashes, index)
        check_inclusion(hashes[index], index, size, proof, root)
        for wrong in (
            (leaf_hash(b"x"), index, size, proof, root),
            (hashes[index], index, size, proof, bytes(32)),
            (hashes[index], index, size, [*proof, bytes(32)], root),
            (hashes[index], size, size, proof, root),
            (hashes[index], -1, size, proof, root),
            (hashes[index], (index + 1) % size if size > 1 else 1, size, proof, root),
            (hashes[index], index, size, proof[:-1], root if size > 1 else bytes(32)),
        ):
            with pytest.raises(EvidenceError):
                check_inclusion(*wrong)


def test_a_short_proof_does_not_pass_a_node_off_as_an_entry() -> None:
    hashes = leaves(4)
    node = node_hash(hashes[0], hashes[1])
    with pytest.raises(EvidenceError):
        check_inclusion(node, 0, 4, [node_hash(hashes[2], hashes[3])], root_of(hashes))


@pytest.mark.parametrize("second", SIZES)
def test_a_tree_can_be_shown_to_have_grown_and_a_rewritten_one_cannot(second: int) -> None:
    hashes, new = leaves(second), root_of(leaves(second))
    for first in range(second + 1):
        old, proof = root_of(hashes[:first]), prove_consistency(hashes, first)
        check_consistency(first, old, second, new, proof)
        rewritten = root_of([leaf_hash(b"x"), *hashes[1:first]])
        wrongs: list[tuple[int, bytes, int, bytes, list[bytes]]] = [
            (first, rewritten, second, new, proof),
            (first, old, second, new, [*proof, bytes(32)]),
        ]
        if first:
            wrongs += [(first, old, second, bytes(32), proof)]
            wrongs += [
                (first, old, second, new, [*proof[:at], bytes(32), *proof[at + 1 :]]) for at in range(len(proof))
            ]
        if proof:
            wrongs += [(first, old, second, new, proof[:-1])]
            wrongs += [(first, old, second, new, [])]
        for wrong in wrongs:
            with pytest.raises(EvidenceError):
                check_consistency(*wrong)


def test_a_tree_that_shrank_is_named_by_its_size() -> None:
    with pytest.raises(EvidenceError, match="grew from 5 entries, got one of 4: it was cut") as refused:
        check_consistency(5, root_of(leaves(5)), 4, root_of(leaves(4)), [])
    assert refused.value.index == 4


@pytest.mark.parametrize("number", [-1, 5])
def test_there_is_no_proof_of_what_is_not_there(number: int) -> None:
    with pytest.raises(EvidenceError, match="got"):
        prove_inclusion(leaves(5), number)
    with pytest.raises(EvidenceError, match="got"):
        prove_consistency(leaves(5), number + (number > 0))
