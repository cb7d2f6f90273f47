"""Words of the command line that several of the coordinator's commands share."""

from pathlib import Path

from fedbank.errors import RunError


def refuse_file(path: Path) -> None:
    """Output files are never overwritten, and are looked at before anything changes.

    Raises:
        RunError: ``path`` exists, or its folder does not.
    """
    if path.exists():
        raise RunError(f"Expected a new file, got {path}, which exists. Choose another; nothing was changed.")
    if not path.absolute().parent.is_dir():
        raise RunError(f"Expected {path} in a folder that exists, got none. Make it first; nothing was changed.")
