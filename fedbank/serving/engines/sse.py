"""The events of a ``text/event-stream`` (WHATWG HTML, section 9.2.6), with a bound on what a server may send."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fedbank.strict_json import read_json

_END = b"[DONE]"
_MAX_EVENT_BYTES = 1 << 20


class StreamError(ValueError):
    """The stream is none, or has no end within the bound."""


async def events(content: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[dict[str, Any]]:
    """The JSON object of each event up to ``[DONE]``, which must come.

    Raises:
        StreamError: not such a stream, cut before its end, or more than ``max_bytes``.
    """
    left, total = b"", 0
    async for piece in content:
        total += len(piece)
        left += piece
        if total > max_bytes or len(left) > _MAX_EVENT_BYTES:
            raise StreamError("it does not end")
        *lines, left = left.split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # comments, which keep a connection open, and fields that this protocol does not use
            data = line[5:].strip()
            if data == _END:
                return
            yield _object(data)
    raise StreamError("it was cut")


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = read_json(data, _MAX_EVENT_BYTES)
    except ValueError as error:
        raise StreamError("it is no JSON") from error
    if not isinstance(found, dict):
        raise StreamError("it is no object")
    return found
