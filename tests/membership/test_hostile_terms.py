"""Settings in a file of somebody else: whatever stands there is a plain error that can be printed."""

import pytest

from fedbank.errors import ConfigError
from fedbank.membership.settings import Settings
from fedbank.membership.terms import Terms

REST = b"\ndeadline: {factor: 3, floor_s: 60, ceiling_s: 3600}"
HOSTILE = {
    "a boolean that is none": b"quorum: !!bool x" + REST,
    "a time that is none": b"quorum: !!timestamp x" + REST,
    "a number of no digits": b'quorum: !!int ""' + REST,
    "a float of no digits": b'quorum: !!float ""' + REST,
    "a name of Python": b"quorum: !!python/name:os.system" + REST,
    "a list as a name": b"? [a]\n: b" + REST,
    "an alias": b"quorum: &x [*x]" + REST,
    "many lists": b"[" * 5000,
    "half a character": b'base_model_digest: "\\ud800"\nquorum: 2' + REST,
    "a factor of 400 digits": b"quorum: 2\ndeadline: {factor: 1" + b"0" * 400 + b", floor_s: 60, ceiling_s: 3600}",
    "a factor of 5000 digits": b"quorum: 2\ndeadline: {factor: " + b"9" * 5000 + b", floor_s: 60, ceiling_s: 3600}",
    "no text": b"quorum: \xff",
    "an escape sequence as a name": b'"\\e[2J": 1',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_terms_are_a_plain_error(content: bytes) -> None:
    with pytest.raises(ConfigError, match="Expected") as refused:
        Terms.loads(content, "the join package")
    assert str(refused.value).isprintable() and len(str(refused.value)) < 500


@pytest.mark.parametrize("text", ["\u202ebank", "a\u2028b", "\ud800", "\x9b2J"])
def test_a_line_of_text_holds_only_what_can_be_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="a line of text"):
        Settings({"name": text}, "consortium.yaml", ("name",)).text("name")
