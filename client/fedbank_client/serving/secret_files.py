"""Addresses with passwords in them: from a file that is its owner's only, or a variable; never a word of a command."""

import os
from pathlib import Path

from fedbank.certificates import CertificateError, read_private

DATABASE_VARIABLE, REDIS_VARIABLE, ENGINE_VARIABLE = "FEDBANK_DATABASE_URL", "FEDBANK_REDIS_URL", "FEDBANK_ENGINE_KEY"


def read_secret(path: str | None, variable: str) -> str | None:
    """The first line of the file at ``path``, else the environment's ``variable``; ``None`` if neither is set.

    Raises:
        CertificateError: the file is missing, open to others, or has no first line.
    """
    if path is None:
        return os.environ.get(variable) or None
    lines = read_private(Path(path)).decode("utf-8", "replace").splitlines()
    if not lines or not lines[0].strip():
        raise CertificateError(f"Expected one line in {path}, got an empty file. Write the address into it.")
    return lines[0].strip()
