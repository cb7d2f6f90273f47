import base64

import pytest

from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.note import (
    ED25519,
    Checkpoint,
    check_signature,
    read_checkpoint,
    sign_checkpoint,
    signature_line,
    split_note,
)
from fedbank.evidence.tree import leaf_hash, prove_consistency, root_of
from fedbank.evidence.verify import check_cosignature, check_growth, cosign
from fedbank.sealing.keys import SigningKey

ORIGIN = "nordic.example/coordinator"
KEY, WITNESS = SigningKey.derived("log"), SigningKey.derived("witness")
CHECKPOINT = Checkpoint(ORIGIN, 20852163, bytes(range(32)))
NOTE = sign_checkpoint(CHECKPOINT, KEY)
TEXT = CHECKPOINT.text()
LINE = NOTE.split("\n\n")[1]

GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
GO_KEY = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
"""The example of golang.org/x/mod/sumdb/note, made by another implementation (the key begins with its type, 1)."""


def test_a_note_of_another_implementation_verifies() -> None:
    text, signatures = split_note(GO_NOTE)
    public_key = base64.b64decode(GO_KEY)[1:]
    check_signature(signatures, "PeterNeumann", ED25519, public_key, text.encode())
    with pytest.raises(EvidenceError, match="forged or damaged"):
        check_signature(signatures, "PeterNeumann", ED25519, public_key, text.upper().encode())


def test_a_checkpoint_has_three_lines_an_empty_one_and_a_signature() -> None:
    assert NOTE.split("\n")[:4] == [ORIGIN, "20852163", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", ""]
    assert NOTE.split("\n")[4].startswith(f"— {ORIGIN} ") and NOTE.endswith("=\n")
    assert read_checkpoint(NOTE, KEY.public.raw, ORIGIN) == CHECKPOINT


def test_a_name_may_be_in_any_script() -> None:
    checkpoint = Checkpoint("fedbank/Zürich-銀行/bank-a", 1, bytes(32))
    assert read_checkpoint(sign_checkpoint(checkpoint, KEY), KEY.public.raw) == checkpoint


def test_signatures_of_unknown_keys_are_passed_over() -> None:
    other = signature_line("witness.example/w1", 0x04, WITNESS.public.raw, bytes(72))
    same_name = signature_line(ORIGIN, ED25519, WITNESS.public.raw, bytes(64))
    assert read_checkpoint(NOTE + other + same_name, KEY.public.raw) == CHECKPOINT


def signed(text: str) -> str:
    return f"{text}\n{signature_line(ORIGIN, ED25519, KEY.public.raw, KEY.sign(text.encode()))}"


ROOT = TEXT.split("\n")[2]
REFUSED = {
    "empty": ("", "signatures"),
    "no-signature": (TEXT + "\n", "signatures"),
    "no-empty-line": (TEXT + LINE, "signatures"),
    "no-last-newline": (NOTE[:-1], "signatures"),
    "hyphen-for-dash": (NOTE.replace("— ", "- "), "signatures"),
    "text-behind": (NOTE + "hello\n", "signatures"),
    "too-long": (NOTE + LINE * 200, "signatures"),
    "signature-not-base64": (f"{TEXT}\n— {ORIGIN} AAA\n", "base64"),
    "signature-in-another-spelling": (NOTE[:-3] + chr(ord(NOTE[-3]) + 1) + NOTE[-2:], "canonical spelling"),
    "no-origin": (signed(f"\n1\n{ROOT}\n"), "origin, size and root"),
    "origin-with-a-space": (signed(f"a b\n1\n{ROOT}\n"), "no space, no plus"),
    "origin-with-a-plus": (signed(f"a+b\n1\n{ROOT}\n"), "no space, no plus"),
    "size-with-a-zero-before": (signed(f"{ORIGIN}\n01\n{ROOT}\n"), "origin, size and root"),
    "size-negative": (signed(f"{ORIGIN}\n-1\n{ROOT}\n"), "origin, size and root"),
    "size-in-other-digits": (signed(f"{ORIGIN}\n١\n{ROOT}\n"), "origin, size and root"),
    "root-short": (signed(f"{ORIGIN}\n1\nAAAA\n"), "origin, size and root"),
    "root-in-another-spelling": (signed(TEXT.replace("Hh8=", "Hh9=")), "canonical spelling"),
    "extension-line": (signed(f"{TEXT}more\n"), "origin, size and root"),
    "another-origin": (sign_checkpoint(Checkpoint("other.example", 1, bytes(32)), KEY), "checkpoint of nordic"),
    "another-key": (sign_checkpoint(CHECKPOINT, WITNESS), "got none"),
    "another-keys-signature": (
        f"{TEXT}\n{signature_line(ORIGIN, ED25519, KEY.public.raw, WITNESS.sign(TEXT.encode()))}",
        "forged or damaged",
    ),
    "one-good-and-one-forged": (
        NOTE + signature_line(ORIGIN, ED25519, KEY.public.raw, WITNESS.sign(TEXT.encode())),
        "forged or damaged",
    ),
    "signature-cut": (f"{TEXT}\n{signature_line(ORIGIN, ED25519, KEY.public.raw, bytes(10))}", "forged or damaged"),
    "other-size": (NOTE.replace("20852163", "20852164"), "forged or damaged"),
    "other-root": (NOTE.replace("AAECAw", "AAECAx"), "forged or damaged"),
    "cosignature-only": (cosign(NOTE, KEY, ORIGIN, 1).replace(LINE, "", 1), "got none"),
}


@pytest.mark.parametrize(("note", "match"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_a_signed_checkpoint_of_this_log_is_refused(note: str, match: str) -> None:
    with pytest.raises(EvidenceError, match=match):
        read_checkpoint(note, KEY.public.raw, ORIGIN)


def test_every_changed_character_is_refused() -> None:
    for position in range(len(NOTE)):
        for char in "A\n —0":
            changed = NOTE[:position] + char + NOTE[position + 1 :]
            if changed != NOTE:
                with pytest.raises(EvidenceError):
                    read_checkpoint(changed, KEY.public.raw, ORIGIN)


# --- growth and cosignatures -------------------------------------------------------------------------------------

LEAVES = [leaf_hash(b"%d" % number) for number in range(9)]


def note_at(size: int, leaves: list[bytes] = LEAVES, origin: str = ORIGIN) -> str:
    return sign_checkpoint(Checkpoint(origin, size, root_of(leaves[:size])), KEY)


@pytest.mark.parametrize("size", [1, 4, 6, 9])
def test_a_bank_that_saw_a_checkpoint_can_check_that_the_log_only_grew(size: int) -> None:
    proof = prove_consistency(LEAVES, size)
    assert check_growth(note_at(size), note_at(9), proof, KEY.public.raw).size == 9
    rewritten = [leaf_hash(b"x"), *LEAVES[1:]]
    for old, new, steps in (
        (note_at(size), note_at(9, rewritten), prove_consistency(rewritten, size)),
        (note_at(size), note_at(9, origin="other.example"), proof),
        (note_at(size), sign_checkpoint(Checkpoint(ORIGIN, 9, root_of(LEAVES)), WITNESS), proof),
        (sign_checkpoint(Checkpoint(ORIGIN, size, root_of(LEAVES[:size])), WITNESS), note_at(9), proof),
        (note_at(size), note_at(size - 1), []),
    ):
        with pytest.raises(EvidenceError):
            check_growth(old, new, steps, KEY.public.raw)


def test_a_cosignature_says_who_vouched_for_which_checkpoint_and_when() -> None:
    note = cosign(cosign(NOTE, WITNESS, "bank-a", 1700000000), WITNESS, "bank-a", 1700000060)
    assert read_checkpoint(note, KEY.public.raw, ORIGIN) == CHECKPOINT
    assert check_cosignature(note, "bank-a", WITNESS.public.raw) == 1700000060
    line = note.split("\n")[-2]
    assert len(base64.b64decode(line.split(" ")[2])) == 4 + 8 + 64
    for name, key in (("bank-b", WITNESS), ("bank-a", KEY)):
        with pytest.raises(EvidenceError, match="Expected a cosignature"):
            check_cosignature(note, name, key.public.raw)


@pytest.mark.parametrize("change", ["size", "time", "cut"])
def test_a_cosignature_does_not_move_to_another_checkpoint_or_time(change: str) -> None:
    note = cosign(NOTE, WITNESS, "bank-a", 1700000000)
    content = bytearray(base64.b64decode(note.split("\n")[-2].split(" ")[2]))
    if change == "size":
        note = note.replace("20852163", "20852164")
    elif change == "time":
        content[11] ^= 1
    else:
        del content[-1]
    note = note.replace(note.split("\n")[-2].split(" ")[2], base64.b64encode(bytes(content)).decode())
    with pytest.raises(EvidenceError, match="forged or damaged"):
        check_cosignature(note, "bank-a", WITNESS.public.raw)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "line\nbreak", "\u3000", "a\u200bb", "a" * 129])
def test_a_name_that_would_break_the_note_signs_nothing(name: str) -> None:
    with pytest.raises(EvidenceError, match="Expected a name"):
        cosign(NOTE, WITNESS, name, 1)
