"""How a passphrase is asked for: never as a word that other processes can read."""

import argparse
import getpass
from pathlib import Path

from fedbank.certificates import CertificateError, read_private
from fedbank.errors import ConfigError


def add_passphrase(parser: argparse.ArgumentParser) -> None:
    """Never as a word on the command line, which every process on the machine can read."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--passphrase-file", type=Path, metavar="F", help="a file (mode 0600) whose first line it is")
    either.add_argument("--passphrase", action="store_true", help="ask for it")


def read_passphrase(chosen: argparse.Namespace, *, new: bool = False) -> bytes | None:
    """What ``add_passphrase`` was given; a ``new`` one is asked for twice.

    Raises:
        CertificateError: the file is open to others, or has no first line.
        ConfigError: two different words were typed, or there is nobody to ask.
    """
    if chosen.passphrase_file is not None:
        lines = read_private(chosen.passphrase_file).splitlines()
        if not lines or not lines[0]:
            raise CertificateError(f"Expected a passphrase in {chosen.passphrase_file}, got an empty line.")
        return lines[0]
    if not chosen.passphrase:
        return None
    try:
        given = getpass.getpass("Passphrase: ")
        again = getpass.getpass("Once more: ") if new else given
    except EOFError:
        raise ConfigError("Expected a terminal to ask for the passphrase, got none. Use --passphrase-file.") from None
    if again != given:
        raise ConfigError("Expected the same passphrase twice, got two. Nothing was made; try again.")
    return given.encode()
