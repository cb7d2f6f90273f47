"""ChaCha20's key stream (RFC 8439, section 2.3), written from the RFC: what a stream's key has to give."""

import numpy as np

_CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4")
_ROUND = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip


def keystream(key: bytes, words: int) -> np.ndarray:
    """The first ``words`` 64-bit words under ``key``, counter and nonce zero."""
    blocks = -(-words // 8)
    state = np.zeros((16, blocks), "<u4")
    state[:4] = _CONSTANTS[:, None]
    state[4:12] = np.frombuffer(key, "<u4")[:, None]
    state[12] = np.arange(blocks)
    mixed = state.copy()
    for quarter in _ROUND * 10:
        a, b, c, d = (mixed[word] for word in quarter)
        for left, by, turned, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            left += by
            turned ^= left
            turned[:] = (turned << np.uint32(bits)) | (turned >> np.uint32(32 - bits))
    return np.ascontiguousarray((mixed + state).T).reshape(-1).view("<u8")[:words]
