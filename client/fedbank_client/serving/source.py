"""The releases that a bank may answer with: adopted by ``client sync``, and verified anew whenever they are looked at.

Verified means: by the members' newest word that this bank knows, from its pinned first root down to the last byte, for
the base model that is in memory. What the members took back, signed with keys that no longer count, or let expire, is
refused however well it verified before.
"""

import os
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator
from datetime import datetime
from pathlib import Path

from fedbank.durable import is_held
from fedbank.errors import ModelError
from fedbank.release.contents import MANIFEST
from fedbank.release.errors import ReleaseError
from fedbank.release.mirror import copy_signatures
from fedbank.release.offline import ADAPTER, Verified, check_named, verify_release
from fedbank.serving.rollout.desk import Offered
from fedbank_client.release_home import ReleaseHome

_PATIENCE_S, _LOOK_S = 15.0, 0.1
"""While a sync writes the members' newest word, file by file, it may be newer in one file than in the next."""


class BaseFolder:
    """The base model's files: their digest, taken again once one of them has changed."""

    def __init__(self, folder: Path, digest: Callable[[Path], str]) -> None:
        self.folder, self._digest = folder, digest
        self._taken: tuple[Hashable, str] | None = None

    def mark(self) -> Hashable:
        """Cheap, and different once a file has changed."""
        return tuple(_marks(self.folder))

    def digest(self) -> str:
        """SHA-256 as ``base_digest`` takes it: minutes for a large model, once."""
        mark = self.mark()
        if self._taken is None or self._taken[0] != mark:
            self._taken = (mark, self._digest(self.folder))
        return self._taken[1]


class ReleaseSource:
    """See the module and ``fedbank.serving.rollout.desk.Source``.

    Raises (``offered`` and ``of``):
        ReleaseError: names the check that failed.
        ModelError: the release is for another base model; with both digests.
        RunError: which release is adopted cannot be read, or no root is trusted yet.
    """

    def __init__(self, home: ReleaseHome, base: BaseFolder) -> None:
        self._home, self._base = home, base

    def mark(self) -> Hashable:
        """See ``Source``: every file about releases, and of the base model, by what the system knows of it."""
        return (*_marks(self._home.folder), self._base.mark())

    def offered(self, now: datetime) -> Offered | None:
        """See ``Source``."""
        adopted = self._home.adopted()
        return None if adopted is None else self.of(adopted.release, now)

    def of(self, release: str, now: datetime) -> Offered:
        """See ``Source``."""
        folder = self._home.of(release)
        verified = self._verified(folder, now)
        check_named(verified.inspected, release)
        expected, here = verified.inspected.manifest.base, self._base.digest()
        if expected["digest"] != here:
            raise ModelError(
                f"Expected the base model {expected['digest']} ({expected['name']}), which {release} is for, got "
                f"{here} in {self._base.folder}. It is not served; name the right folder: model=path model.path=DIR"
            )
        return Offered(release, verified.inspected.hashes[MANIFEST], folder / ADAPTER)

    def _verified(self, folder: Path, now: datetime) -> Verified:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._by_the_newest_word(folder, now)
            except (ReleaseError, OSError) as error:
                is_syncing = is_held(self._home.folder / "lock")
                if is_syncing and time.monotonic() < deadline:
                    time.sleep(_LOOK_S)
                    continue
                if isinstance(error, OSError):
                    raise ReleaseError(
                        "files",
                        f"Expected to read the release in {folder}, got: {error.strerror}. Run: fedbank client sync",
                    ) from error
                raise

    def _by_the_newest_word(self, folder: Path, now: datetime) -> Verified:
        """By what this bank verified last, which may be newer than the signatures that the release came with."""
        root = self._home.pinned_root()
        if not (self._home.trust / "targets.json").exists():
            return verify_release(folder, root, now)
        with tempfile.TemporaryDirectory() as beside:
            signatures = Path(beside) / "signatures"
            copy_signatures(self._home.trust, signatures)
            return verify_release(folder, root, now, signatures=signatures)


def _marks(folder: Path) -> Iterator[tuple[str, int, int, int, int]]:
    """Every file below ``folder``: one that is written changes its time of change, which nobody can set."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))  # what a sync is fetching
        for name in sorted(names):
            path = Path(place) / name
            try:
                found = path.stat()
            except FileNotFoundError:  # a sync clears up
                continue
            yield str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
