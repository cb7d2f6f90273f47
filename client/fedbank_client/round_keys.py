"""The secret keys of the noise of rounds that are being computed.

A key is on disk before its round is charged and destroyed when the finished update is kept. A round whose computation
was cut off is thereby computed again with the same noise: it is the same release, charged once. What the first
computation made never left the process, since an update leaves only after it is kept. On other data it would be another
release, whose difference from the first carries no noise: so the noise depends on the data too.
"""

import hashlib
import hmac
from pathlib import Path

from fedbank.durable import sync_folder, write_atomic
from fedbank.errors import RunError
from fedbank.privacy.noise import KEY_BYTES, RandomStream, fresh_key

_FORMER_NAMES = f"{'[0-9a-f]' * 16}-round-?????-*.key"
"""Keys of rounds that an earlier version left in the middle: its campaigns cannot go on."""


class RoundKeys:
    """Keys in ``folder``, each its owner's only. Whoever reads one could subtract the noise of that round's update."""

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        self._folder = folder
        self._sync = sync

    def stream(
        self, campaign: str, round_number: int, base_digest: str, data_digest: bytes | None = None
    ) -> RandomStream:
        """The stream of this release: a new one, or the one that a crash interrupted, of other data another one.

        Raises:
            RunError: the key cannot be kept or read; nothing was charged.
        """
        path = self._folder / f"{_name(campaign, round_number)}-{base_digest}.key"
        try:
            if path.exists():
                key = path.read_bytes()
            else:
                key = fresh_key()
                write_atomic(path, key, mode=0o600, sync=self._sync)
        except OSError as error:
            raise RunError(
                f"Expected to keep the key of round {round_number} in {path}, got: {error.strerror or error}. Free "
                "space or mend the permissions. Nothing was charged and nothing was trained."
            ) from error
        if len(key) != KEY_BYTES:
            raise RunError(
                f"Expected {KEY_BYTES} bytes in {path}, got {len(key)}: the file was damaged. Delete it to train the "
                "round again, which is charged again. Nothing was trained."
            )
        return RandomStream.kept(key if data_digest is None else hmac.digest(key, data_digest, "sha256"))

    def destroy(self, campaign: str, round_number: int) -> None:
        """Forget the keys of a round whose finished update is kept."""
        found = sorted(
            [*self._folder.glob(f"{_name(campaign, round_number)}-*.key"), *self._folder.glob(_FORMER_NAMES)]
        )
        for path in found:
            path.unlink(missing_ok=True)
        if found and self._sync:
            sync_folder(self._folder)


def _name(campaign: str, round_number: int) -> str:
    """Campaigns may name themselves as they like: none touches another's file, hence none draws another's noise."""
    return f"{hashlib.sha256(campaign.encode()).hexdigest()}-round-{round_number:05d}"
