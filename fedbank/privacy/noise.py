"""Random variates from a cryptographic generator, and the Gaussian mechanism on a public grid.

A ``RandomStream`` is a ChaCha20 key stream. ``RandomStream.secure()`` takes its key from the operating system;
``RandomStream.kept(key)`` has such a key too, which the bank keeps until the release is finished, so that a crash does
not draw fresh noise; ``RandomStream.derived(...)`` takes it from a seed and is for simulations and tests, which build
one in code: no configuration reaches this choice.
"""

import hashlib
import json
import secrets
from collections.abc import Callable

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

KEY_BYTES = 32
_FAR = 2.0**-24
_NONCE = bytes(16)  # one key, one stream: every stream has a key of its own


class RandomStream:
    """Uniform and normal variates from one ChaCha20 key stream (RFC 8439, section 2.4).

    ``replay_id`` is ``None`` for a secure stream. For any other it names the key without telling it, so that a ledger
    can tell that the same release was computed again (which reveals nothing new) from a second, fresh release.
    """

    def __init__(self, key: bytes, replay_id: str | None) -> None:
        self._keystream = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()
        self.replay_id = replay_id
        self._releases: list[int] = []

    @classmethod
    def secure(cls) -> "RandomStream":
        """A stream that nobody can predict or draw again."""
        return cls(fresh_key(), replay_id=None)

    @classmethod
    def kept(cls, key: bytes) -> "RandomStream":
        """The stream of a secret random key (``fresh_key``) that is kept for one release and destroyed after it."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
        return cls(key, replay_id=hashlib.sha256(b"fedbank-kept-stream/1" + key).hexdigest()[:32])

    @classmethod
    def derived(cls, *context: str | int) -> "RandomStream":
        """The stream that belongs to ``context`` (a seed, a bank, a round): for simulations and tests only."""
        key = hashlib.sha256(json.dumps(["fedbank-stream/1", *context]).encode()).digest()
        return cls(key, replay_id=hashlib.sha256(key).hexdigest()[:32])

    @property
    def releases(self) -> tuple[int, ...]:
        """How many coordinates every release had that got noise from this stream, oldest first."""
        return tuple(self._releases)

    def count_release(self, coordinates: int) -> None:
        """Note that noise was added to so many coordinates together: whoever adds it says so, not whoever asks."""
        self._releases.append(coordinates)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """``count`` variates strictly inside (0, 1) with 52 random bits each (with 53, 1.0 could come out)."""
        raw = np.frombuffer(self._keystream.update(bytes(8 * count)), dtype="<u8")
        return ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

    def normal(self, count: int) -> NDArray[np.float64]:
        """``count`` standard normal variates, by inversion of the distribution function (see ``invert``)."""
        return invert(np.frombuffer(self._keystream.update(bytes(8 * count)), dtype="<u8"), self.uniform)


def invert(raw: NDArray[np.uint64], uniform: Callable[[int], NDArray[np.float64]]) -> NDArray[np.float64]:
    """The standard normal variates of uniformly random 64-bit numbers.

    The lowest bit is the sign, the others are a tail probability p in (0, 1/2), followed by 52 bits of ``uniform``
    where p is below 2^-24. So neighbouring variates are closer than 2^-40 to each other however far out they lie, and
    every point of the public grid can be reached from every sum. (With 52 bits for the whole distribution, variates
    beyond 6.5 lie further apart than the points of the grid: such a one could prove that a customer is there.)
    """
    tail = ((raw >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-64
    far = np.flatnonzero(tail < _FAR)
    if len(far):
        tail[far] = ((raw[far] >> np.uint64(1)).astype(np.float64) + uniform(len(far))) * 2.0**-64
    variates = np.asarray(ndtri(tail), dtype=np.float64)
    return np.where(raw & np.uint64(1), -variates, variates)


def fresh_key() -> bytes:
    """A key from the operating system's generator."""
    return secrets.token_bytes(KEY_BYTES)


def add_gaussian(
    sums: tuple[Tensor, ...], std: float, grid: float, stream: RandomStream, *, step: float
) -> tuple[Tensor, ...]:
    """Exact ``sums`` plus N(0, std²) in every coordinate, rounded to multiples of ``grid``; fp32.

    ``sums`` are int64 in steps of ``step``. One draw for all tensors together, in their order; the stream counts it.
    The noise is rounded to whole steps and added in integers: that is the exact sum with continuous noise, rounded
    afterwards, since rounding down commutes with adding an integer. So both roundings are public post-processing, which
    hides the floating-point pattern of the noise (Mironov 2012, doi:10.1145/2382196.2382264).
    """
    variates = stream.normal(sum(tensor.numel() for tensor in sums))
    noise = torch.from_numpy(np.floor(variates * (std / step) + 0.5).astype(np.int64))
    released, start = [], 0
    for tensor in sums:
        part = noise[start : start + tensor.numel()].reshape(tensor.shape)
        start += tensor.numel()
        noisy = (tensor.cpu() + part).double() * (step / grid)
        released.append((torch.round(noisy) * grid).float().to(tensor.device))
    stream.count_release(start)
    return tuple(released)
