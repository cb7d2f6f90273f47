"""What a person reads when the coordinator's disk is full or fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedbank.errors import RunError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a ``RunError`` that names ``path``: the file is as it was before."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"Expected to write {path}, got: {error.strerror or error}. Free space or repair the disk and run the "
            "campaign again: it goes on where it was."
        ) from error
