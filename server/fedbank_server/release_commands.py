"""``fedbank server release ...``: draft changes, collect the banks' signatures, publish what they signed."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from fedbank.cli import EXIT_OK, dispatch
from fedbank.command_line import add_folder, add_json, now, plain_console, print_json, say
from fedbank.errors import RunError
from fedbank.membership.folders import read_document
from fedbank.model.folder import tiny_folder
from fedbank.release.build import Scores
from fedbank.release.change import Change, Published
from fedbank.release.contents import CHANNELS, CONFIG, Contents
from fedbank.release.drafts import DraftFolder
from fedbank.release.keys import read_release_key
from fedbank.release.signatories import Signatories
from fedbank.sealing.keys import SigningKey
from fedbank_server.campaign_folder import CampaignFolder, current_campaign
from fedbank_server.consortium import Files, find_folder, note, read_consortium
from fedbank_server.members import active_members
from fedbank_server.release_files import ReleaseFiles
from fedbank_server.release_of_campaign import Particulars, build_release
from fedbank_server.releases import (
    collect,
    draft_channel,
    draft_release,
    draft_signatories,
    draft_state,
    earlier_release,
    open_drafts,
    publish,
)

_HERE = "fedbank_server.release_commands"
COMMANDS: dict[str, tuple[str, str]] = {
    "keys": (f"{_HERE}:keys_command", "draft who signs releases: add, remove or replace banks' keys"),
    "propose": (f"{_HERE}:propose_command", "draft the release of a finished campaign"),
    "promote": (f"{_HERE}:promote_command", "draft that a channel names a release"),
    "rollback": (f"{_HERE}:rollback_command", "draft that a channel names the release before"),
    "publish": (f"{_HERE}:publish_command", "publish a draft that enough banks signed"),
    "list": (f"{_HERE}:list_command", "signatories, releases, channels and open drafts"),
    "root": (f"{_HERE}:root_command", "write the first root, for a bank that joins and for auditors"),
}
"""Every command with where it lives and what it does."""


def release_command(words: Sequence[str]) -> int:
    """``fedbank server release COMMAND``"""
    return dispatch("fedbank server release", COMMANDS, words)


def keys_command(words: Sequence[str]) -> int:
    """``fedbank server release keys --add FILE ... --remove BANK ...``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server release keys",
        description="Draft who signs releases. Without words: the same ones again, for another year.",
    )
    add_folder(parser)
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="FILE", help="release-key.json of banks")
    parser.add_argument("--remove", nargs="+", default=[], metavar="BANK")
    parser.add_argument("--threshold", type=int, metavar="M", help="signatures that a change needs; default: over half")
    parser.add_argument("--new-online-key", action="store_true", help="the coordinator's own key was lost or stolen")
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    consortium, roster = read_consortium(folder), active_members(folder)
    added = dict(read_release_key(read_document(path), consortium.name, roster.find_key) for path in chosen.add)
    drafted = draft_signatories(
        folder,
        consortium.name,
        now(),
        add=added,
        remove=chosen.remove,
        threshold=consortium.terms.release_threshold if chosen.threshold is None else chosen.threshold,
        new_online=chosen.new_online_key,
    )
    return _say_drafted(folder, drafted)


def propose_command(words: Sequence[str]) -> int:
    """``fedbank server release propose``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server release propose",
        description="Draft the release of a finished campaign: adapter, manifest, card. The scores come from fedbank "
        "evaluate, run here on --suite, or elsewhere with its output as --evaluation.",
    )
    add_folder(parser)
    parser.add_argument("--campaign", metavar="ID", help="default: the last one")
    scores = parser.add_mutually_exclusive_group(required=True)
    scores.add_argument("--suite", type=Path, metavar="FILE", help="public JSON lines: question, answer, customer")
    scores.add_argument("--evaluation", type=Path, metavar="FILE", help="what fedbank evaluate --json printed")
    parser.add_argument("--base", type=Path, metavar="DIR", help="the base model's folder; default: the tiny one")
    parser.add_argument("--base-revision", default="", metavar="R", help="its revision, where it comes from a hub")
    parser.add_argument("--licence", default="Apache-2.0")
    parser.add_argument("--data-card", default="none", help="where the training data are described")
    parser.add_argument("--parent", metavar="RELEASE", help="default: what stable names now")
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    campaign = chosen.campaign or current_campaign(folder)
    kept = CampaignFolder.of(folder, campaign or "none")
    if campaign is None or not kept.began:
        raise RunError(f"Expected a campaign of this consortium, got {campaign or 'none'}. See: fedbank server status")
    stable = ReleaseFiles(folder).trusted().channels.get(CHANNELS[1])
    base = chosen.base or tiny_folder()
    name = json.loads((kept.folder / "adapter" / CONFIG).read_bytes())["base_model_name_or_path"]
    parent = chosen.parent or (stable.release if stable else None)
    about = Particulars(base, name, chosen.base_revision, chosen.licence, chosen.data_card, parent)
    with TemporaryDirectory(dir=folder, prefix=".release-") as made:
        release = Path(made) / "release"
        unscored = Scores("0" * 64, 0, {}, {})
        if chosen.evaluation is not None:
            scored = Scores.from_json(read_document(chosen.evaluation))
        else:
            build_release(kept, about, unscored, now(), release)
            scored = _evaluate(release, chosen.suite, chosen.base)
        build_release(kept, about, scored, now(), release)
        return _say_drafted(folder, draft_release(folder, release, now()))


def promote_command(words: Sequence[str]) -> int:
    """``fedbank server release promote RELEASE --channel CHANNEL``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server release promote", description="Draft that a channel names a release."
    )
    parser.add_argument("release", metavar="RELEASE")
    parser.add_argument("--channel", choices=CHANNELS, default=CHANNELS[1])
    add_folder(parser)
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    return _say_drafted(folder, draft_channel(folder, chosen.channel, chosen.release, now()))


def rollback_command(words: Sequence[str]) -> int:
    """``fedbank server release rollback --channel CHANNEL``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server release rollback",
        description="Draft that a channel names an earlier release: new metadata that banks sign like any other.",
    )
    parser.add_argument("--channel", choices=CHANNELS, default=CHANNELS[1])
    parser.add_argument("--to", metavar="RELEASE", help="default: the parent of what it names now")
    add_folder(parser)
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    release = chosen.to or earlier_release(folder, chosen.channel)
    return _say_drafted(folder, draft_channel(folder, chosen.channel, release, now()))


def publish_command(words: Sequence[str]) -> int:
    """``fedbank server release publish DRAFT [SIGNATURE ...]``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server release publish",
        description="Put the banks' signature files to a draft and, once there are enough, publish it to the members.",
    )
    parser.add_argument("draft", metavar="DRAFT", help="its name, as list shows it")
    parser.add_argument("signatures", type=Path, nargs="*", metavar="SIGNATURE", help="files that banks sent back")
    add_folder(parser)
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    drafted = _draft(folder, chosen.draft)
    collect(drafted, [read_document(path) for path in chosen.signatures])
    change = publish(folder, drafted, now(), partial(_note_published, folder))
    promote = f"No channel names it yet: fedbank server release promote {change.about}"
    after = promote if isinstance(change, Published) else "Members take it at their next sync."
    say(f"Published: {change.sentence()}. {after}")
    return EXIT_OK


def list_command(words: Sequence[str]) -> int:
    """``fedbank server release list``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server release list", description="Signatories, releases, channels and open drafts."
    )
    add_folder(parser)
    add_json(parser)
    chosen = parser.parse_args(list(words))
    folder = find_folder(chosen.dir)
    files = ReleaseFiles(folder)
    now_trusted = files.trusted()
    signatories = Signatories.of(now_trusted.root) if now_trusted.root else None
    releases = sorted(Contents.of(now_trusted.targets).releases) if now_trusted.targets else []
    drafts, overtaken = open_drafts(folder)
    if chosen.json:
        print_json(
            {
                "signatories": sorted(signatories.banks) if signatories else [],
                "threshold": signatories.threshold if signatories else 0,
                "releases": releases,
                "channels": {name: channel.release for name, channel in now_trusted.channels.items()},
                "drafts": {
                    name: {"change": state.change.sentence(), "signed": list(state.signed), "complete": state.complete}
                    for name, state in drafts.items()
                },
                "overtaken": list(overtaken),
            }
        )
        return EXIT_OK
    say(
        f"Signed by {signatories.threshold} of {', '.join(sorted(signatories.banks))}."
        if signatories
        else "Nobody signs releases yet: fedbank server release keys --add FILE ..."
    )
    table = Table(title="Releases")
    for column in ("release", "channels"):
        table.add_column(column, overflow="fold")
    for release in releases:
        table.add_row(
            release, ", ".join(n for n, channel in now_trusted.channels.items() if channel.release == release)
        )
    plain_console().print(table)
    for name, state in drafts.items():
        say(
            f"Draft {name}: {state.change.sentence()}; signed by {', '.join(state.signed) or 'nobody'}, needs "
            f"{state.threshold}."
        )
    for name in overtaken:
        say(f"Draft {name}: another change came first. Propose it again, or delete {files.drafts / name}.")
    return EXIT_OK


def root_command(words: Sequence[str]) -> int:
    """``fedbank server release root``"""
    parser = argparse.ArgumentParser(
        prog="fedbank server release root", description="Print the first root, from which all trust follows."
    )
    add_folder(parser)
    chosen = parser.parse_args(list(words))
    root = ReleaseFiles(find_folder(chosen.dir)).repository.first_root()
    if root is None:
        raise RunError("Expected signatories of releases, got none yet. Run: fedbank server release keys")
    sys.stdout.buffer.write(root)
    return EXIT_OK


def _draft(folder: Path, name: str) -> DraftFolder:
    path = ReleaseFiles(folder).drafts / Path(name).name
    if not path.is_dir():
        raise RunError(f"Expected an open draft, got {name!r:.80}. See: fedbank server release list")
    return DraftFolder(path)


def _note_published(folder: Path, change: Change, signed: Sequence[str]) -> None:
    files, name = Files(folder), read_consortium(folder).name
    key = SigningKey.load(files.coordinator_key)
    note(files, name, key, "change-published", change.about, f"{change.sentence()}; signed by {', '.join(signed)}")


def _say_drafted(folder: Path, drafted: DraftFolder) -> int:
    state = draft_state(folder, drafted)
    words = " --suite FILE data=..." if isinstance(state.change, Published) else ""
    say(
        f"Drafted: {state.change.sentence()}.\n"
        f"Send the folder {drafted.folder} to the banks; {state.threshold} of them sign it:\n"
        f"  fedbank client release review {drafted.folder.name}{words}\n"
        f"  fedbank client release sign {drafted.folder.name}{words}\n"
        f"With the files that come back: fedbank server release publish {drafted.folder.name} FILE ..."
    )
    return EXIT_OK


def _evaluate(release: Path, suite: Path, base: Path | None) -> Scores:
    """In a process of its own: the coordinator itself loads no model."""
    command = [sys.executable, "-P", "-m", "fedbank.cli", "evaluate", str(release), "--suite", str(suite), "--json"]
    if base is not None:
        command += ["model=path", f"model.path={base}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"Expected scores of fedbank evaluate, got: {done.stderr.strip()[-500:]}")
    return Scores.from_json(done.stdout.encode())
