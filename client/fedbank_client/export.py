"""``fedbank release export``: a release for other programs: the plain PEFT folder, or the base model with it merged."""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from fedbank.cli import EXIT_OK, dispatch
from fedbank.command_line import now, say
from fedbank.config import ClientConfig, load_client
from fedbank.errors import RunError
from fedbank.membership.folders import read_document
from fedbank.release.contents import FILES
from fedbank.release.inspection import Inspected, inspect
from fedbank.release.manifest import Manifest
from fedbank.release.offline import SIGNATURES, adapter_folder, own_root, verify_release

COMMANDS: dict[str, tuple[str, str]] = {
    "export": ("fedbank_client.export:export_command", "a release as a PEFT folder, or merged into its base model"),
}
"""Every command with where it lives and what it does."""


def release_command(words: Sequence[str]) -> int:
    """``fedbank release COMMAND``"""
    return dispatch("fedbank release", COMMANDS, words)


def export_command(words: Sequence[str]) -> int:
    """``fedbank release export DIR OUTPUT [--merged] [NAME=VALUE ...]``"""
    parser = argparse.ArgumentParser(
        prog="fedbank release export",
        description="Write a release for other programs: the folder that peft, vLLM and llama.cpp's converter read; "
        "with --merged, the base model with the adapter added into its weights (safetensors).",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a release")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="a folder that does not exist yet")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="the base model, such as model=path")
    parser.add_argument("--merged", action="store_true")
    parser.add_argument("--root", type=Path, metavar="ROOT", help="the members' first root; default: the release's own")
    chosen = parser.parse_intermixed_args(list(words))
    source, output = adapter_folder(chosen.folder), chosen.output
    if os.path.lexists(output):
        raise RunError(f"Expected a new folder, got {output}, which exists. Choose another; nothing was written.")
    if output.resolve().is_relative_to(chosen.folder.resolve()):
        raise RunError(f"Expected a folder outside the release, got {output}. Choose another; nothing was written.")
    manifest = _checked(chosen.folder, chosen.root).manifest
    building = output.with_name(f".{output.name}.fedbank-export")  # nobody else's: what a killed one left is cleared
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        if chosen.merged:
            _merge(source, manifest, building, load_client(chosen.overrides))
        else:
            for name in FILES:
                shutil.copyfile(source / name, building / name)
        building.rename(output)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"Wrote {output}.")
    return EXIT_OK


def _checked(folder: Path, root: Path | None) -> Inspected:
    """Every byte is as the members signed it; a folder without signatures, of which no root was asked, is inspected.

    Without ``root`` the folder's own counts: that finds what was changed by accident, not who signed.
    """
    if root is None and not (folder / SIGNATURES).is_dir():
        return inspect(folder)
    return verify_release(folder, read_document(root) if root else own_root(folder), now()).inspected


def _merge(source: Path, manifest: Manifest, target: Path, config: ClientConfig) -> None:
    """The base model's weights plus alpha / rank times B A (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""
    from fedbank_client.released_model import open_release

    released = open_release(source, manifest, config)
    released.put_on()
    released.model.peft_model.merge_and_unload(safe_merge=True).save_pretrained(target, safe_serialization=True)
    released.tokenizer.save_pretrained(target)
