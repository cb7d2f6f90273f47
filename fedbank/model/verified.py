"""A base model's folder as it was hashed: what is loaded is what the digest says, whoever writes meanwhile. No torch.

A private folder holds exactly the files that the digest covers. Small ones are copies of the very bytes that were
hashed. Weights stay where they are: a link leads to the open file that was hashed, so that another file in its place
changes nothing, and ``check_unchanged`` finds whoever wrote into it. That rests on the system's time of change, which
no program sets; it does not bind the machine's administrator, nor one who has mapped the file to write into it.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from fedbank.errors import ModelError
from fedbank.model.contents import counted_names, is_weights
from fedbank.model.folder import check_contents, digest_of
from fedbank.model.reading import opened, read_small, unreadable
from fedbank.model.settings import check_settings

AS_STARTED = "as it was when the service started"
"""Which base model a service expects: see ``VerifiedFolder.expect``."""
_NAME = "base"
"""Of every private folder: transformers chooses a tokenizer's class by the name of the folder, too."""
_MOST_COPIED = 16 << 20
_TICK_NS = 20_000_000
"""Two changes within one tick of the system's clock leave the same time of change; ticks are 10 ms or shorter."""
_Mark = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class VerifiedFolder:
    """``path``: the private folder to load from, gone when its block ends. ``source``: whose content it has.

    ``digest``: of the content, as ``base_digest`` takes it. ``files``: SHA-256 of each file, by name.
    """

    path: Path
    source: Path
    digest: str
    files: Mapping[str, str]
    marks: tuple[tuple[Path, _Mark], ...]

    def check_unchanged(self) -> None:
        """Call it when everything that is read has been read, into memory that is no file's.

        Raises:
            ModelError: somebody wrote into the weights since they were hashed.
        """
        for link, mark in self.marks:
            try:
                found = _mark(link.stat())
            except OSError as error:
                raise unreadable(self.source, error) from error
            if found != mark:
                raise ModelError(
                    f"Expected {self.source / link.name} to stay as it is while it is loaded, got a change. Nothing "
                    "was used. Let nobody write into the model's folder, and start again."
                )

    def expect(self, digest: str, of: str) -> None:
        """Refuse a base model other than the one ``of`` which ``digest`` is known.

        Raises:
            ModelError: with both digests.
        """
        if self.digest != digest:
            raise ModelError(
                f"Expected the base model {digest[:16]} ({of}), got {self.digest[:16]} in {self.source}. Name its "
                "folder: model=path model.path=DIR"
            )


@contextmanager
def verified_folder(source: Path, *, most_copied: int = _MOST_COPIED) -> Iterator[VerifiedFolder]:
    """The base model in ``source``, hashed, in a private folder until the block ends.

    ``most_copied``: weights of up to as many bytes are copied as well. Costs the reading of all files once.

    Raises:
        ModelError: as ``base_digest``.
    """
    with ExitStack() as stack:
        place = _private(stack)
        files: dict[str, str] = {}
        marks = []
        for name in counted_names(source):
            if not is_weights(name) or _size(source / name) <= most_copied:
                files[name] = _copy(source / name, place / name)
                continue
            file = stack.enter_context(opened(source / name))
            marks.append((place / name, _link(source / name, file, place / name)))
            files[name] = hashlib.file_digest(file, "sha256").hexdigest()
        with _told_of(source, place):
            check_contents(place)
        yield VerifiedFolder(place, source, digest_of(files), files, tuple(marks))


@contextmanager
def tokenizer_folder(source: Path) -> Iterator[Path]:
    """A private folder with copies of all files of the base model in ``source`` but its weights and their index.

    Raises:
        ModelError: as ``base_digest``, but weights are not looked into.
    """
    with ExitStack() as stack:
        place = _private(stack)
        for name in counted_names(source):
            if not is_weights(name):
                _copy(source / name, place / name)
        with _told_of(source, place):
            check_settings(place)
        yield place


@contextmanager
def _told_of(source: Path, place: Path) -> Iterator[None]:
    """A person is told of the folder that they know."""
    try:
        yield
    except ModelError as error:
        raise ModelError(str(error).replace(str(place), str(source))) from error


def _private(stack: ExitStack) -> Path:
    try:
        outer = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedbank-base-", ignore_cleanup_errors=True))
        place = Path(outer) / _NAME
        place.mkdir(mode=0o700)
    except OSError as error:
        raise ModelError(
            f"Expected room for a private folder in {tempfile.gettempdir()}, got: {error.strerror}. Set TMPDIR."
        ) from error
    return place


def _copy(source: Path, target: Path) -> str:
    """The SHA-256 of the bytes that were written."""
    content = read_small(source)
    try:
        target.write_bytes(content)
    except OSError as error:
        raise ModelError(f"Expected to write {target}, got: {error.strerror}. Set TMPDIR.") from error
    return hashlib.sha256(content).hexdigest()


def _link(source: Path, file: BufferedReader, target: Path) -> _Mark:
    """Let ``target`` lead to the open ``file``, and wait until any later change shows in its mark."""
    found = os.fstat(file.fileno())
    if (age := time.time_ns() - found.st_ctime_ns) < _TICK_NS:
        time.sleep(min(_TICK_NS, _TICK_NS - age) / 1e9)
        if os.fstat(file.fileno()).st_ctime_ns != found.st_ctime_ns:
            raise ModelError(f"Expected {source} to stay as it is while it is read, got a change. Start again.")
    held = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
    target.symlink_to(held if held.exists() else source.resolve())
    return _mark(found)


def _mark(found: os.stat_result) -> _Mark:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
