"""A member's view of the repository: everything that TUF's client workflow checks (TUF 1.0.34, section 5), then ours.

What was trusted is kept in a folder and can only grow newer: an older repository, or one that mixes old and new, is
refused whoever serves it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from fedbank.durable import sync_folder
from fedbank.release.contents import CHANNELS, FILES, Channel, Contents
from fedbank.release.errors import ReleaseError
from fedbank.release.signatories import Signatories
from fedbank.release.trust import MAX_ROOT_BYTES, MAX_TARGETS_BYTES, read_metadata

_CONFIG = UpdaterConfig(
    root_max_length=MAX_ROOT_BYTES,
    targets_max_length=MAX_TARGETS_BYTES,
    snapshot_max_length=MAX_ROOT_BYTES,
    max_delegations=0,
    max_root_rotations=1 << 16,  # each look follows all of them from the first; each is signed by the members
)
_REASONS: tuple[tuple[type[Exception], str, str], ...] = (
    (exceptions.ExpiredMetadataError, "expired", "Expected metadata that is still valid, got some that has expired"),
    (exceptions.BadVersionNumberError, "version", "Expected the newest metadata, got an older or a mixed one"),
    (exceptions.UnsignedMetadataError, "signatures", "Expected metadata that enough signatories signed, got another"),
    (exceptions.LengthOrHashMismatchError, "hash", "Expected the bytes that the members signed, got others"),
    (exceptions.DownloadLengthMismatchError, "length", "Expected no more bytes than the members signed, got more"),
    (
        exceptions.DownloadHTTPError,
        "unreachable",
        "Expected a file of the repository, got an answer without it (404: nothing is published yet, or it is "
        "withheld; 403: this bank is no active member; 429: it asked too often)",
    ),
    (exceptions.DownloadError, "unreachable", "Expected an answer of the repository, got none"),
    (exceptions.RepositoryError, "metadata", "Expected TUF metadata, got something else"),
)


@dataclass(frozen=True, slots=True)
class View:
    """What the members' signatures say now, all of it verified."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    contents: Contents
    channels: dict[str, Channel]


class Mirror:
    """The trusted metadata in ``folder``, kept up through ``fetcher`` from ``url``; trust begins with ``root``.

    One object is one look at the repository. Whoever makes one holds the bank's lock.
    """

    def __init__(self, folder: Path, root: bytes, fetcher: FetcherInterface, url: str) -> None:
        self._folder, self._root, self._fetcher, self._url = folder, root, fetcher, url
        self._updater: Updater | None = None

    def look(self) -> View:
        """Fetch what is new and verify it.

        Raises:
            ReleaseError: names the check that failed; what was trusted before stays.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with _refusals():
            self._updater = Updater(
                str(self._folder),
                f"{self._url}/metadata/",
                target_base_url=f"{self._url}/targets/",
                fetcher=self._fetcher,
                config=_CONFIG,
                bootstrap=self._root,
            )
            self._updater.refresh()
        return self._view()

    def fetch(self, view: View, release: str, folder: Path) -> None:
        """The files of a release into ``folder``, which is new; each is verified as it arrives and on disk at the end.

        Raises:
            ReleaseError: as ``look``.
        """
        listed = view.contents.releases.get(release)
        if listed is None:
            raise ReleaseError("unlisted", f"Expected a release that the members signed, got {release}, unlisted.")
        folder.mkdir(parents=True)
        for name in FILES:
            self._download(listed[name], folder / name)
        sync_folder(folder)

    def _view(self) -> View:
        root = read_metadata((self._folder / "root.json").read_bytes(), Root, MAX_ROOT_BYTES)
        Signatories.of(root.signed)
        targets = read_metadata((self._folder / "targets.json").read_bytes(), Targets, MAX_TARGETS_BYTES)
        contents = Contents.of(targets.signed)
        channels = {name: self._channel(contents.channels[name]) for name in CHANNELS if name in contents.channels}
        return View(root, targets, contents, channels)

    def _channel(self, listed: TargetFile) -> Channel:
        """From the file that is kept, if it is still the listed one."""
        path = self._folder / "channels" / Path(listed.path).name
        try:
            content = path.read_bytes()
            listed.verify_length_and_hashes(content)
        except (OSError, exceptions.LengthOrHashMismatchError):
            path.parent.mkdir(exist_ok=True)
            self._download(listed, path)
            content = path.read_bytes()
        return Channel.from_bytes(content)

    def _download(self, listed: TargetFile, path: Path) -> None:
        beside = path.with_name(f".{path.name}")
        with _refusals():
            assert self._updater is not None
            self._updater.download_target(listed, str(beside))
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)


def copy_signatures(folder: Path, target: Path) -> None:
    """What anybody needs to verify a release offline, from a mirror's ``folder``: all roots, and the targets."""
    target.mkdir(parents=True)
    for path in sorted((folder / "root_history").glob("*.root.json")):
        shutil.copyfile(path, target / path.name)
    shutil.copyfile(folder / "targets.json", target / "targets.json")


@contextmanager
def _refusals() -> Iterator[None]:
    """TUF's exceptions as ours."""
    try:
        yield
    except exceptions.RepositoryError as error:
        raise _refusal(error) from error
    except exceptions.DownloadError as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> ReleaseError:
    check, said = next((check, said) for kind, check, said in _REASONS if isinstance(error, kind))
    return ReleaseError(check, f"{said}: {error!s:.200}. Nothing was adopted.")
