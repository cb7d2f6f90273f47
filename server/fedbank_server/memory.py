"""Memory that is free again is the system's again."""

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 20


def return_large_blocks() -> None:
    """From now on the C library gives every block of 1 MiB or more back when it is freed (mallopt(3), glibc).

    By itself it learns from the first large block that it had better keep the next ones, up to 32 MiB each and in
    every thread: a coordinator of many banks would hold gigabytes that nobody uses. Other C libraries do not learn.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
