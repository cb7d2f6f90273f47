"""Requests to a service on this machine with as little work of the client's own as can be: kept connections, JSON."""

import asyncio
import json
from typing import Any


class StatusError(Exception):
    """Another answer than 200."""


class Connections:
    """As many connections as are asked at once; each asks one request after another."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the service answers; ``StatusError`` (or what a broken connection raises) if it does not."""
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        link = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
        reader, writer = link
        writer.write(head.encode() + content)
        first, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        length = next(int(field.split(":")[1]) for field in fields if field.lower().startswith("content-length:"))
        found: dict[str, Any] = json.loads(await reader.readexactly(length))
        self._idle.append(link)
        if " 200 " not in first:
            raise StatusError(first)
        return found

    async def close(self) -> None:
        """Hang up."""
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()
