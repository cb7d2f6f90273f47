"""A campaign's identifier is relied on whole: no file, key or folder goes by a part of it."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedbank.config import load_campaign
from fedbank.errors import RunError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.proposal import Proposal, shown_campaign
from fedbank_client.round_keys import RoundKeys
from fedbank_server.campaign_folder import CampaignFolder

SPRING = "spring-" + "0123456789abcdef" * 4
LIKE_SPRING = SPRING[:-1] + "0"
"""Two identifiers that differ in their last digit alone."""


def proposed(name: str = "spring") -> Proposal:
    return Proposal.of("alliance", base_digest(tiny_folder()), load_campaign([f"name={name}"]))


def test_an_identifier_is_the_name_with_all_64_digits_of_the_terms() -> None:
    proposal = proposed()
    assert proposal.campaign == f"spring-{hashlib.sha256(proposal.to_bytes()).hexdigest()}"
    assert len(proposed("n" * 40).campaign) == 105, "a file system takes 255 bytes, the evidence 128 characters"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((SPRING, "0" * 64), (LIKE_SPRING, "0" * 64)),
        ((SPRING, "0" * 64), (SPRING, "0" * 63 + "1")),
    ],
    ids=["campaign", "adapter"],
)
def test_rounds_that_differ_in_the_last_digit_have_keys_of_their_own(
    one: tuple[str, str], other: tuple[str, str], tmp_path: Path
) -> None:
    keys = RoundKeys(tmp_path, sync=False)
    first, second = keys.stream(one[0], 1, one[1]), keys.stream(other[0], 1, other[1])
    assert first.replay_id != second.replay_id and len(list(tmp_path.iterdir())) == 2
    assert keys.stream(one[0], 1, one[1]).replay_id == first.replay_id, "a crash draws the same again"


def test_a_keys_name_holds_two_whole_digests(tmp_path: Path) -> None:
    """No two identifiers with one 64-bit prefix can be made here; so the name is looked at."""
    RoundKeys(tmp_path, sync=False).stream(SPRING, 7, "a" * 64)
    (path,) = tmp_path.iterdir()
    assert path.name == f"{hashlib.sha256(SPRING.encode()).hexdigest()}-round-00007-{'a' * 64}.key"


def test_keys_that_an_earlier_version_left_are_destroyed(tmp_path: Path) -> None:
    left = tmp_path / f"{'0' * 16}-round-00003-{'1' * 32}.key"
    left.write_bytes(bytes(32))
    RoundKeys(tmp_path, sync=False).destroy(SPRING, 1)
    assert not left.exists()


def test_a_coordinator_does_not_go_on_with_a_campaign_of_16_digits(tmp_path: Path) -> None:
    proposal = proposed()
    former = CampaignFolder.of(tmp_path, proposal.campaign[: len("spring-") + 16])
    kept = CampaignFolder.of(tmp_path, proposal.campaign)
    kept.check_no_former(proposal)
    former.begin(proposal, b"roster", {})
    with pytest.raises(RunError, match=r"got spring-[0-9a-f]{16}, which an earlier version began.*give another name"):
        kept.check_no_former(proposal)
    with pytest.raises(RunError, match=r"Expected the terms of spring-[0-9a-f]{16} in its folder, got those of spring"):
        former.proposal()
    kept.begin(proposal, b"roster", {})
    assert kept.proposal() == proposal


def test_a_folder_that_is_named_for_other_terms_is_no_campaign(tmp_path: Path) -> None:
    kept = CampaignFolder.of(tmp_path, proposed().campaign)
    kept.begin(replace(proposed(), base_digest="0" * 64), b"roster", {})
    with pytest.raises(RunError, match="got those of spring-"):
        kept.proposal()


def test_people_are_shown_twelve_digits_with_a_mark_that_there_are_more() -> None:
    assert shown_campaign(SPRING) == "spring-0123456789ab…"
    assert shown_campaign("spring-0123456789abcdef") == "spring-0123456789abcdef"
    assert not re.fullmatch("[a-z0-9-]+", shown_campaign(SPRING)), "what is shown cannot be taken for an identifier"
