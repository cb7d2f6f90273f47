"""``fedbank verify``: whether the members signed a release. Needs neither network nor torch nor the coordinator."""

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fedbank.command_line import add_json, now, print_json, say
from fedbank.release.errors import ReleaseError
from fedbank.release.offline import Verified, verify_release
from fedbank.release.trust import MAX_ROOT_BYTES, first_root


def verify_command(words: Sequence[str]) -> int:
    """``fedbank verify DIR --root ROOT``"""
    parser = argparse.ArgumentParser(
        prog="fedbank verify",
        description="Verify that the member banks signed every byte of a release, offline. Exits with 2 and names the "
        "check that failed if they did not.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="a release with its signatures, as client sync keeps it"
    )
    parser.add_argument(
        "--root", type=Path, required=True, metavar="ROOT", help="the first root, from a second channel"
    )
    parser.add_argument("--at", metavar="TIME", help="as of this moment (ISO 8601) instead of now, for an archive")
    add_json(parser)
    chosen = parser.parse_args(list(words))
    verified = verify_release(chosen.folder, _root(chosen.root), _moment(chosen.at))
    if chosen.json:
        print_json(_fields(verified))
        return 0
    manifest = verified.inspected.manifest
    say(
        f"{manifest.release}: signed by {', '.join(verified.signed_by)} ({verified.threshold} needed), valid until "
        f"{verified.valid_until:%Y-%m-%d}.\n"
        f"Adapter {manifest.adapter['digest']} for the base model {manifest.base['digest'][:16]} "
        f"({manifest.base['name']})."
    )
    return 0


def _fields(verified: Verified) -> dict[str, object]:
    manifest = verified.inspected.manifest
    return {
        "release": manifest.release,
        "signed_by": list(verified.signed_by),
        "threshold": verified.threshold,
        "root_version": verified.root_version,
        "valid_until": verified.valid_until.isoformat(),
        "adapter_digest": manifest.adapter["digest"],
        "base_digest": manifest.base["digest"],
        "files": dict(verified.inspected.hashes),
    }


def _root(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_ROOT_BYTES + 1)
        first_root(content)
    except OSError as error:
        raise ReleaseError("root", f"Expected the members' first root in {path}, got: {error.strerror}.") from error
    except ReleaseError as error:
        raise ReleaseError("root", f"Expected the members' first root in {path}, got another file. {error}") from error
    return content


def _moment(text: str | None) -> datetime:
    if text is None:
        return now()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ReleaseError("time", f"Expected a moment such as 2027-01-31T12:00:00+00:00, got {text!r:.40}.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=now().tzinfo)
