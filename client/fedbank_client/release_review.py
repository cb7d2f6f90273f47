"""What a bank looks at before it signs a change: it goes by the metadata and its own books, not by what it is told.

Every check is a line with its figures. A bank signs only what passed all of them. None of them sees a customer: how the
release does on this bank's own is beside them, for the person who decides (``fedbank_client.own_customers``).
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedbank.command_line import now as clock
from fedbank.errors import RunError
from fedbank.evidence.files import read_entry_lines
from fedbank.evidence.log import EVIDENCE
from fedbank.privacy.accounting import LEAST_DELTA, round_up
from fedbank.privacy.budget import Budget
from fedbank.privacy.ledger import LEDGER, Ledger
from fedbank.release.change import Change, Draft, Moved, Published, Reseated
from fedbank.release.contents import FILES, MAX_BYTES, Contents
from fedbank.release.drafts import DraftFolder
from fedbank.release.errors import ReleaseError
from fedbank.release.inspection import Inspected, inspect, open_plain
from fedbank.release.keys import NAMED, read_release_key
from fedbank.release.manifest import Manifest
from fedbank.release.offline import check_listed, check_named
from fedbank.release.repository import SIGNED_LIFE
from fedbank.sealing.keys import PublicKey
from fedbank_client.adoption import load_apart, score_apart
from fedbank_client.home import TRAINING
from fedbank_client.own_customers import OwnScores, look
from fedbank_client.policy import Policy
from fedbank_client.release_home import ReleaseHome

_CLOCKS = timedelta(days=1)
"""By how much the coordinator's clock may be fast."""
_PIECE_BYTES = 1 << 20
_SLACK = 1e-3
"""By how much recomputed scores may differ: other processors round otherwise."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a review: ``passed``, with what was expected and found."""

    name: str
    passed: bool
    said: str


@dataclass(frozen=True, slots=True)
class Review:
    """What a draft changes, and everything that was looked at. ``draft``: as it was read then; sign this one.

    ``own``: on this bank's held-out customers, if that was asked for. No program goes by it.
    """

    draft: Draft
    change: Change
    checks: Sequence[Check]
    own: OwnScores | None = None

    @property
    def passed(self) -> bool:
        """Whether a careful bank may sign, as far as a program may say."""
        return all(check.passed for check in self.checks)


def review(
    home: ReleaseHome,
    drafted: DraftFolder,
    policy: Policy,
    own_key: PublicKey | None,
    overrides: Sequence[str],
    *,
    suite: Path | None,
    evaluate: bool = True,
    own: bool = True,
) -> Review:
    """Look at a draft. ``overrides`` name the base model and this bank's data; ``suite`` the public records.

    ``evaluate``: load it and score public records. ``own``: then show how it does on this bank's customers, too.

    Raises:
        ReleaseError: it is not one change that follows what this bank trusts, or its files are not those listed.
    """
    now, draft = home.trusted(), drafted.read()
    change = drafted.change(now, draft)
    files = drafted.new_files(change)
    checks, shown = [Check("scope", True, change.sentence())], None
    if isinstance(change, Reseated):
        checks.append(_own_seat(change, home.home.bank, {own_key, named_key(home)}))
    elif isinstance(change, Moved):
        checks.append(_direction(change))
    elif isinstance(change, Published) and draft.targets is not None:
        listed = Contents.of(draft.targets.signed).releases[change.release]
        with _own_copy(drafted.adapter(change), home.home.folder) as adapter:  # the draft may lie where others write
            inspected = inspect(adapter)
            check_named(inspected, change.release)
            check_listed(inspected, listed)
            checks.append(Check("files", True, f"{len(files)} files, as the metadata lists them, norm as said"))
            checks += _release_checks(home, inspected, policy)
            if evaluate:
                checks.append(_scores(adapter, inspected.manifest, overrides, suite))
                shown = look(adapter, overrides) if own else None
    checks.append(_validity(draft, clock()))
    return Review(draft, change, checks, shown)


@contextmanager
def _own_copy(adapter: Path, place: Path) -> Iterator[Path]:
    """The four files where nobody else exchanges them between one look and the next."""
    with TemporaryDirectory(dir=place, prefix=".review-") as made:
        for name in FILES:
            with open_plain(adapter / name) as source, (Path(made) / name).open("wb") as target:
                left = MAX_BYTES[name] + 1
                while piece := source.read(min(left, _PIECE_BYTES)):
                    target.write(piece)
                    left -= len(piece)
        yield Path(made)


def named_key(home: ReleaseHome) -> PublicKey | None:
    """The release key that this bank named last, by its own signature; ``None`` before it has one."""
    path, home_ = home.home.folder / NAMED, home.home
    if not path.exists():
        return None
    own = home_.load_signing_key().public
    return read_release_key(path.read_bytes(), home_.consortium, lambda bank: own if bank == home_.bank else None)[1]


def _own_seat(change: Reseated, bank: str, own: set[PublicKey | None]) -> Check:
    """Nobody else changes this bank's key."""
    before = change.before.banks.get(bank) if change.before else None
    after = change.after.banks.get(bank)
    known = {key for key in (*own, before) if key is not None}
    if after is None and before is not None:
        return Check("own key", True, f"{bank} signs no releases any more: sign only if it leaves")
    fine = after is None or after in known
    said = f"this bank's key {after.hex()[:16]}" if after else "this bank has no key in it"
    return Check("own key", fine, said if fine else f"Expected this bank's own key, got {said}, which it does not know")


def _validity(draft: Draft, at: datetime) -> Check:
    """Until then a coordinator can go on calling it the newest, and not a day longer than a year."""
    ends = sorted(part.signed.expires for part in draft.parts())
    fine = at < ends[0] and ends[-1] <= at + SIGNED_LIFE + _CLOCKS
    said = " and ".join(f"{end:%Y-%m-%d}" for end in ends)
    return Check("valid until", fine, said if fine else f"Expected a day of the year to come, got {said}")


def _direction(change: Moved) -> Check:
    before = change.before.release if change.before else "nothing"
    return Check("channel", True, f"{change.channel}: {before} -> {change.after.release}")


def _release_checks(home: ReleaseHome, inspected: Inspected, policy: Policy) -> Iterator[Check]:
    manifest = inspected.manifest
    base, allowed = manifest.base["digest"], _shown(policy.base_model_digests)
    yield Check("base model", policy.allows_base_model(base), f"{base[:16]}, policy.yaml allows {allowed}")
    rank = manifest.adapter["rank"]
    yield Check("rank", rank <= policy.max_adapter_rank, f"{rank}, policy.yaml allows {policy.max_adapter_rank}")
    yield _result(home, manifest)
    yield from _privacy(home, manifest)


def _result(home: ReleaseHome, manifest: Manifest) -> Check:
    """The adapter is the one that this bank received at the campaign's end, by its own evidence."""
    campaign, digest = manifest.training["campaign"], manifest.adapter["digest"]
    received = [
        entry["object"]
        for entry in _entries(home)
        if entry["action"] == "result-received" and entry["result"] == f"of {campaign}"
    ]
    if not received:
        return Check("result", True, f"this bank received no result of {campaign}: it cannot compare")
    return Check("result", received[-1] == digest, f"received {received[-1][:16]}, the release has {digest[:16]}")


def _privacy(home: ReleaseHome, manifest: Manifest) -> Iterator[Check]:
    """What is said of this bank's customers, against its own ledger."""
    bank, campaign = home.home.bank, manifest.training["campaign"]
    said: Mapping[str, Any] = manifest.privacy["banks"]
    charges = Ledger(home.home.folder / TRAINING / LEDGER, bank).charges()
    ours = [charge for charge in charges if charge.campaign == campaign]
    if bank not in said:
        yield Check("privacy", not ours, f"the release does not count {bank} in, its ledger holds {len(ours)} rounds")
        return
    if said[bank] is None:
        yield Check("privacy", not ours, f"the release says that {bank} trained without privacy")
        return
    delta = float(said[bank]["delta"])
    if delta < LEAST_DELTA:
        yield Check("privacy", False, f"the release says delta {delta:g}, below {LEAST_DELTA:g} no epsilon is known")
        return
    epsilon = Budget(None, None, delta).spent(charges, campaign).epsilon
    spent = round_up(epsilon, 4) if math.isfinite(epsilon) else epsilon
    claimed = float(said[bank]["epsilon"])
    yield Check(
        "privacy", 0 < spent <= claimed, f"the release says epsilon {claimed:g}, the ledger {spent:g}, at {delta:g}"
    )
    steps = sum(charge.num_steps for charge in ours)
    same = all(f"{charge.noise_multiplier:.12g}" == f"{float(said[bank]['noise_multiplier']):.12g}" for charge in ours)
    yield Check(
        "noise", same and steps <= float(said[bank]["steps"]), f"{steps} steps, at the noise that the release says"
    )


def _scores(adapter: Path, manifest: Manifest, overrides: Sequence[str], suite: Path | None) -> Check:
    """It loads and answers; on the public suite with the scores that the release gives, if that is at hand."""
    try:
        if suite is None:
            load_apart(adapter, overrides)
            return Check("load", True, "it loads and answers made-up customers")
        return _suite(score_apart(adapter, overrides, "--suite", str(suite)), manifest)
    except ReleaseError as error:
        return Check("load", False, str(error))


def _suite(found: Any, manifest: Manifest) -> Check:
    said = manifest.evaluation
    if found.suite != said["suite"]:
        return Check("suite", False, f"Expected the suite {said['suite'][:16]}, got {found.suite[:16]}")
    if found.records != said["records"]:
        return Check("suite", False, f"Expected {said['records']} records, got {found.records}")
    unknown = sorted({*said["base"], *said["adapter"]} - found.base.keys() - found.adapter.keys())
    if unknown:
        return Check("suite", False, f"Expected scores that come out again, got {unknown[0]}, which is none of them")
    apart = [
        abs(float(said[part].get(name, "inf")) - value)
        for part, scores in (("base", found.base), ("adapter", found.adapter))
        for name, value in scores.items()
    ]
    same = all(difference <= _SLACK for difference in apart)
    return Check("suite", same, f"scores differ by at most {max(apart):.2g} from those of the release")


def _entries(home: ReleaseHome) -> list[dict[str, Any]]:
    path = home.home.folder / EVIDENCE
    try:
        return [json.loads(line) for line in read_entry_lines(path)] if path.exists() else []
    except (OSError, ValueError) as error:
        raise RunError(
            f"Expected this bank's evidence in {path}, got: {error}. See: fedbank evidence verify"
        ) from error


def _shown(digests: tuple[str, ...] | str) -> str:
    return digests if isinstance(digests, str) else ", ".join(digest[:16] for digest in digests) or "none"
