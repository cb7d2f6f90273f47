"""The network between a bank and its coordinator, for tests that need a bad one: a TCP relay on loopback.

TLS goes through untouched. What is held while the line is cut arrives afterwards, as TCP would deliver it.
"""

import contextlib
import socket
import struct
import threading
import time

_CHUNK = 1 << 16
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""


class Proxy:
    """Relays ``port`` of loopback to ``target``; the methods are what happens to the line. Use as a context manager."""

    def __init__(self, target: int) -> None:
        self._target, self._links = target, set[_Link]()
        self._listener: socket.socket | None = None
        self._open = threading.Event()
        self._open.set()
        self.delay_s = 0.0
        """How long every chunk takes."""
        self.port = 0
        self.accept()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._open.set()

    @property
    def address(self) -> str:
        """HOST:PORT, for a bank's settings."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """A partition: connections stay, nothing goes through, new ones get no answer."""
        self._open.clear()

    def heal(self) -> None:
        """The end of ``cut``."""
        self._open.set()

    def half_open(self) -> None:
        """Connections that exist are dead, and neither side is told; new ones work."""
        for link in list(self._links):
            link.is_dead = True

    def reset(self) -> None:
        """Connections that exist are reset; new ones work."""
        for link in list(self._links):
            link.reset()

    def refuse(self) -> None:
        """Nobody listens any more, and connections that exist are reset."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.reset()

    def accept(self) -> None:
        """The end of ``refuse``."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def wait(self) -> None:
        """Until the line is not cut."""
        self._open.wait()
        if self.delay_s:
            time.sleep(self.delay_s)

    def forget(self, link: "_Link") -> None:
        """The link is over."""
        self._links.discard(link)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._relay, args=(near,), daemon=True).start()

    def _relay(self, near: socket.socket) -> None:
        self.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()
            return
        link = _Link(self, near, far)
        self._links.add(link)
        link.start()


class _Link:
    """One connection: two sockets and a thread for each direction."""

    def __init__(self, proxy: Proxy, near: socket.socket, far: socket.socket) -> None:
        self._proxy, self._near, self._far = proxy, near, far
        self.is_dead = False

    def start(self) -> None:
        """Relay until either side ends."""
        for source, sink in ((self._near, self._far), (self._far, self._near)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def reset(self) -> None:
        """End both sides at once."""
        for end in (self._near, self._far):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RD)  # wakes the thread that reads, which closes
        self._proxy.forget(self)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while chunk := source.recv(_CHUNK):
                self._proxy.wait()
                if not self.is_dead:
                    sink.sendall(chunk)
        except OSError:
            pass
        self._proxy.wait()
        if self.is_dead:  # the other side is never told
            return
        self._proxy.forget(self)
        for end in (sink, source):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
