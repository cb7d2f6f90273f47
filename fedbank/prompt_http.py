"""HTTP/1.1 on a listener that anybody can reach: no patience with slow headers, and a bound on connections.

uvicorn has neither for a connection that has not shown a whole request's headers yet.
"""

import asyncio
from collections.abc import Hashable
from typing import Any, TypeGuard

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class PromptProtocol(H11Protocol):
    """uvicorn's protocol with both; subclasses set ``header_timeout_s``, and ``most_connections`` of one peer."""

    header_timeout_s: float
    most_connections: int
    peer: Hashable = ""
    _heard_at = 0.0
    _is_given_up = False
    _header_timer: asyncio.TimerHandle | None = None

    def identify(self) -> Hashable:
        """Whose connection this is; called once, when it is made. By default all are one peer's."""
        return ""

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        self.peer, self._heard_at = self.identify(), self.loop.time()
        if self._has_room():
            self._expect_headers()
        else:
            self._give_up()

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._heard_at = self.loop.time()
        super().data_received(data)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._stop_timer()
        super().connection_lost(exc)

    def _has_room(self) -> bool:
        """Whether this connection may stay: the one that was silent longest, with no request in work, gives way to it.

        Whoever lost connections without a word comes back with new ones, while the lost ones look alive from here until
        they time out; they must not keep it out. Those that are closed here and whose peer never reads the last answer
        count too, and go first: nothing else would end them.
        """
        others = [other for other in self.connections if other is not self and self._is_of_same_peer(other)]
        if len(others) < self.most_connections:
            return True
        idle = [other for other in others if other._is_idle()]
        if idle:
            oldest = min(idle, key=lambda other: (not other.transport.is_closing(), other._heard_at))
            oldest._give_up()
        return bool(idle)

    def _give_up(self) -> None:
        self._is_given_up = True  # it is gone only when the loop comes round
        self.transport.abort()

    def _is_idle(self) -> bool:
        return self.transport.is_closing() or self.cycle is None or self.cycle.response_complete

    def _is_of_same_peer(self, other: Any) -> TypeGuard["PromptProtocol"]:
        return isinstance(other, PromptProtocol) and other.peer == self.peer and not other._is_given_up

    def _expect_headers(self) -> None:
        """A request that has begun must show its headers in time, however slowly its bytes drip in."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(self.header_timeout_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self.transport.abort()
