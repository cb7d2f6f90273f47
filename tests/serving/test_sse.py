"""The reader of event streams against bytes that a server may send, cut anywhere and without an end."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import repeat
from typing import Any

import pytest

from fedbank.serving.engines.sse import StreamError, events

WHOLE = (
    ': hello\n\nevent: x\ndata: {"text": "开户"}\r\n\ndata:{"text": "b"}\n\ndata: [DONE]\n\ndata: {"text": "after"}\n\n'
).encode()


def read(pieces: Iterable[bytes], max_bytes: int = 10_000) -> list[dict[str, Any]]:
    async def content() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def collect() -> list[dict[str, Any]]:
        return [event async for event in events(content(), max_bytes)]

    return asyncio.run(collect())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_wherever_the_network_cuts_them(size: int) -> None:
    pieces = [WHOLE[at : at + size] for at in range(0, len(WHOLE), size)]
    assert read(pieces) == [{"text": "开户"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cut"),
        (b'data: {"a": 1}\n\n', "cut"),
        (b"data: [DONE]", "cut"),
        (b"data: {oops\n\n", "no JSON"),
        (b"data: " + b"[" * 9000 + b"\n\n", "no JSON"),
        (b"data: \xff\n\n", "no JSON"),
        (b"data: 7\n\n", "no object"),
    ],
)
def test_what_is_no_such_stream_is_an_error(content: bytes, said: str) -> None:
    with pytest.raises(StreamError, match=said):
        read([content])


@pytest.mark.parametrize("piece", [b"x" * 100, b": still here\n\n", b'data: {"a": 1}\n\n'])
def test_a_stream_without_an_end_is_left_at_the_bound(piece: bytes) -> None:
    with pytest.raises(StreamError, match="does not end"):
        read(repeat(piece, 100_000))


def test_one_event_is_bounded_however_long_the_answer_may_be() -> None:
    with pytest.raises(StreamError, match="does not end"):
        read(repeat(b"x" * 1000, 3000), max_bytes=10**9)
