"""``fedbank client sync``: fetch, verify, policy, static check, load in a throw-away process; then it may be adopted.

Every step that fails says which check it was, with its figures, and leaves the adopted release where it is. No step
sees a customer: what is fetched, and when, is seen by the coordinator, and what is adopted by whoever asks the bank.
"""

import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from tuf.ngclient import FetcherInterface

from fedbank.durable import sync_folder, write_atomic
from fedbank.errors import RunError
from fedbank.membership.folders import utc
from fedbank.release.build import Scores
from fedbank.release.contents import Channel
from fedbank.release.errors import ReleaseError
from fedbank.release.mirror import Mirror, View, copy_signatures
from fedbank.release.offline import ADAPTER, SIGNATURES, Verified, check_named, verify_release
from fedbank_client.policy import Policy
from fedbank_client.release_home import Adopted, ReleaseHome

_SECONDS_TO_SCORE = 3600
Note = Callable[[str, str, str], None]
"""Gets an action, what it was about and how it ended: the bank's evidence."""
Load = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A release that is here, verified, allowed and loaded once, and may be adopted. ``seq``: the channel's change."""

    release: str
    channel: str
    seq: int


@dataclass(frozen=True, slots=True)
class Synced:
    """How a sync ended: what is adopted now, and whether that changed. ``arrived``: what waits for a decision."""

    adopted: Adopted | None
    changed: bool
    said: str
    arrived: Arrived | None = None


class Adoption:
    """One bank's adoption of releases.

    ``load`` loads an adapter's folder where it can do no harm, without any customer's record; ``ReleaseError`` if it
    fails there.
    """

    def __init__(self, home: ReleaseHome, policy: Policy, load: Load, note: Note) -> None:
        self._home, self._policy, self._load, self._note = home, policy, load, note

    def sync(self, fetcher: FetcherInterface, url: str, channel: str, now: datetime, *, again: bool = False) -> Synced:
        """Adopt what ``channel`` names, if it is new. ``again``: also what a rollback has set aside.

        Raises:
            ReleaseError: names the check that failed; the adopted release stays.
        """
        with self._home.exclusive():
            synced = self._bring(fetcher, url, channel, now, again)
            return synced if synced.arrived is None else self._adopt(synced.arrived, now)

    def bring(self, fetcher: FetcherInterface, url: str, channel: str, now: datetime, *, again: bool = False) -> Synced:
        """As ``sync``, but for the adoption: what is new is here then, and waits for ``adopt``.

        Raises:
            ReleaseError: names the check that failed.
        """
        with self._home.exclusive():
            return self._bring(fetcher, url, channel, now, again)

    def adopt(self, arrived: Arrived, now: datetime) -> Synced:
        """Adopt what ``bring`` brought: a person has decided.

        Raises:
            ReleaseError: it does not verify any more, or something newer was adopted meanwhile.
        """
        with self._home.exclusive():
            adopted = self._home.adopted()
            if adopted is not None and adopted.channel == arrived.channel and adopted.seq > arrived.seq:
                raise ReleaseError("version", f"Expected nothing newer than {arrived.release}, got {adopted.release}.")
            return self._adopt(arrived, now)

    def roll_back(self, release: str | None, now: datetime) -> Adopted:
        """Adopt ``release`` (default: the one before), which is here already. The channel's release is set aside until
        the channel changes.

        Raises:
            RunError: there is none.
            ReleaseError: it does not verify any more.
        """
        with self._home.exclusive():
            adopted = self._home.adopted()
            wanted = release or (adopted.previous if adopted else None)
            if adopted is None or wanted is None or wanted not in self._home.stored():
                known = ", ".join(self._home.stored()) or "none"
                raise RunError(f"Expected a release that is here ({known}), got {wanted or 'none before this one'}.")
            self._verify(self._home.of(wanted), wanted, now)
            back = replace(adopted, release=wanted, previous=adopted.release, since=utc(now))
            self._note("release-rolled-back", wanted, f"from {adopted.release}, by this bank's operator")
            self._home.adopt(back)
            return back

    def _bring(self, fetcher: FetcherInterface, url: str, channel: str, now: datetime, again: bool) -> Synced:
        mirror = Mirror(self._home.trust, self._home.pinned_root(), fetcher, url)
        view = mirror.look()
        adopted, named = self._home.adopted(), view.channels.get(channel)
        if named is None:
            return Synced(adopted, False, f"The channel {channel} names no release yet.")
        if adopted is not None and adopted.channel == channel and (settled := _settled(adopted, named, again)):
            return Synced(adopted, False, settled)
        try:
            self._take(mirror, view, named, now)
        except ReleaseError as error:
            self._note("release-refused", named.release, f"{error.check}: {error}")
            raise
        said = f"{named.release} is here and verified. It is not adopted yet."
        return Synced(adopted, False, said, Arrived(named.release, channel, named.seq))

    def _take(self, mirror: Mirror, view: View, named: Channel, now: datetime) -> None:
        """From here on the release lies in its folder, whole and looked at: it is not fetched a second time."""
        folder = self._home.of(named.release)
        staging = self._home.folder / f".{named.release}"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            if folder.exists():  # it waits, was adopted before, or a crash came before the pointer
                self._try(folder, self._verify(folder, named.release, now))
            else:
                mirror.fetch(view, named.release, staging / ADAPTER)
                copy_signatures(self._home.trust, staging / SIGNATURES)
                self._try(staging, self._verify(staging, named.release, now))
                sync_folder(staging / SIGNATURES)
                sync_folder(staging)
                staging.rename(folder)
                sync_folder(folder.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _adopt(self, arrived: Arrived, now: datetime) -> Synced:
        """Verified anew: time may have passed."""
        adopted = self._home.adopted()
        verified = self._verify(self._home.of(arrived.release), arrived.release, now)
        check_policy(self._policy, verified)
        previous = adopted.release if adopted else None
        fresh = Adopted(arrived.release, arrived.channel, arrived.seq, previous, utc(now))
        said = f"signed by {', '.join(verified.signed_by)}"
        self._note("release-adopted", arrived.release, said)
        self._home.adopt(fresh)
        return Synced(fresh, True, f"Adopted {arrived.release}, {said}.")

    def _verify(self, folder: Path, release: str, now: datetime) -> Verified:
        try:
            verified = verify_release(folder, self._home.pinned_root(), now)
        except ReleaseError as error:
            newest = self._home.trust / "targets.json"
            if error.check not in ("expired", "signatures") or folder.name.startswith(".") or not newest.exists():
                raise
            verified = self._renew(folder, now)
        check_named(verified.inspected, release)
        return verified

    def _renew(self, folder: Path, now: datetime) -> Verified:
        """Put the members' newest signatures to a release that is here: those that it came with end after a year."""
        fresh = self._home.folder / ".signatures"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            copy_signatures(self._home.trust, fresh)
            verified = verify_release(folder, self._home.pinned_root(), now, signatures=fresh)
            for path in sorted(fresh.iterdir()):  # roots first: killed in between, the next look comes here again
                write_atomic(folder / SIGNATURES / path.name, path.read_bytes())
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return verified

    def _try(self, folder: Path, verified: Verified) -> None:
        """Policy, then a load in a process of its own."""
        check_policy(self._policy, verified)
        self._load(folder / ADAPTER)


def check_policy(policy: Policy, verified: Verified) -> None:
    """``ReleaseError`` unless the release is for a base model and of a rank that the bank's policy allows."""
    manifest = verified.inspected.manifest
    base = manifest.base["digest"]
    if not policy.allows_base_model(base):
        raise ReleaseError(
            "policy",
            f"Expected a base model that policy.yaml allows, got {base[:16]}. It was not adopted.",
        )
    if manifest.adapter["rank"] > policy.max_adapter_rank:
        raise ReleaseError(
            "policy",
            f"Expected an adapter of rank at most {policy.max_adapter_rank}, as policy.yaml says, got "
            f"{manifest.adapter['rank']}.",
        )


def score_apart(adapter: Path, overrides: Sequence[str], *words: str) -> Scores:
    """Scores from a process that ends with it and has no network: whatever loading does, this process is not touched.

    Raises:
        ReleaseError: it failed, crashed or took too long.
    """
    from fedbank_client.evaluation import OFFLINE  # late: it brings Hydra, which a sync without news does without

    python = (sys.executable, "-P")  # no module of the folder that one stands in: it may be a draft from elsewhere
    command = [*python, "-m", "fedbank.cli", "evaluate", str(adapter), OFFLINE, "--json", *words, *overrides]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_SECONDS_TO_SCORE,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ReleaseError("load", f"Expected scores within {_SECONDS_TO_SCORE} s, got none.") from None
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ReleaseError("load", f"Expected an adapter that loads and answers, got: {why[0][:400]}")
    return Scores.from_json(done.stdout.encode())


def load_apart(adapter: Path, overrides: Sequence[str]) -> None:
    """``ReleaseError`` unless the adapter loads and answers made-up customers, the same at every bank, with numbers."""
    from fedbank_client.evaluation import MADE_UP

    check_numbers(score_apart(adapter, overrides, MADE_UP))


def check_numbers(scores: Scores) -> None:
    """``ReleaseError`` if the adapter answers public records with no number."""
    if not all(map(math.isfinite, scores.adapter.values())):
        raise ReleaseError("load", "Expected an adapter that answers public records with numbers, got none.")


def _settled(adopted: Adopted, named: Channel, again: bool) -> str:
    """Why there is nothing to do; empty if there is."""
    if named.seq < adopted.seq:
        raise ReleaseError(
            "version",
            f"Expected change {adopted.seq} of the channel or a later one, got {named.seq}.",
        )
    if named.seq > adopted.seq:
        return ""
    if named.release == adopted.release:
        return f"{adopted.release} is the newest and adopted since {adopted.since}."
    return "" if again else f"{named.release} was rolled back here; {adopted.release} stays. Take it with: --again"
