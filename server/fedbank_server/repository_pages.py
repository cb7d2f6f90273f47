"""The repository of releases for members, over the banks' listener: static files, read-only, nothing else.

Who asks has been looked at by the gate. Names are held to a narrow form, so that no path leads out of the folder.
"""

import asyncio
import os
import re
from pathlib import Path
from typing import Any

PREFIX = "/v1/releases/"
_NAME = re.compile(r"(?:metadata|targets)(?:/[a-z0-9](?:[A-Za-z0-9._-]{0,160}))+")
_PIECE = 1 << 20
_TYPE = [(b"content-type", b"application/octet-stream"), (b"cache-control", b"no-cache")]


class RepositoryPages:
    """An ASGI application over the repository in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one GET."""
        name = scope["path"].removeprefix(PREFIX)
        path = self._folder / name
        if scope["method"] != "GET":
            await _answer(send, 405, b"Only GET.")
        elif not _NAME.fullmatch(name) or ".." in name or not path.is_file():
            await _answer(send, 404, b"Not found.")
        else:
            await _send_file(send, path)


async def _send_file(send: Any, path: Path) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size  # of this one: another may take its name now
        length = (b"content-length", str(size).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*_TYPE, length]})
        while size > 0:
            piece = await asyncio.to_thread(file.read, min(_PIECE, size))
            size -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": bool(piece) and size > 0})
            if not piece:  # shorter than it was: the reader's length check notices
                return


async def _answer(send: Any, status: int, text: bytes) -> None:
    length = (b"content-length", str(len(text)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*_TYPE, length]})
    await send({"type": "http.response.body", "body": text})
