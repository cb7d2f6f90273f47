"""Clients that mean harm to a bank's service, over plain sockets, as a process of their own.

``python hostile_clients.py PORT`` reads one line of JSON after the other: ``{"name": ..., "tokens": [...]}`` begins an
attack, which goes on until the next line, and then a line tells how often which status came (0: hung up on).
"""

import contextlib
import gzip
import http.client
import json
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

WORD = "kanarie"
"""Begins every word of theirs: none may be found in a log or a metric."""
PIPELINED, IDLE, UNKNOWN = 10_000, 1000, 1000
PAUSE_S = 0.005
_MIB = 1 << 20
Attack = Callable[["Hostile"], None]


def word(place: str) -> str:
    return f"{WORD}-{place}-4711"


class Hostile:
    """One attacker: where the service is, tokens of its own, and what came back."""

    def __init__(self, port: int) -> None:
        self.port, self.tokens, self.seen, self.end = port, [""], Counter[int](), threading.Event()
        self.kept: list[socket.socket] = []
        self._turn = 0

    @property
    def token(self) -> str:
        self._turn += 1
        return self.tokens[self._turn % len(self.tokens)]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def send(self, content: bytes, count: int = 1) -> None:
        """Send it and read ``count`` answers; not more often than 200 times a second: the machine is the service's."""
        time.sleep(PAUSE_S)
        with contextlib.closing(self.connect()) as connection:
            with contextlib.suppress(OSError):  # an answer may be there, and the listener gone, before all is sent
                connection.sendall(content)
            for _ in range(count):
                self.seen[status_of(connection)] += 1

    def post(self, body: bytes, path: str = "/v1/query", **headers: str) -> None:
        self.send(self.request(body, path, **headers))

    def request(self, body: bytes, path: str = "/v1/query", method: str = "POST", **headers: str) -> bytes:
        named = {
            "Host": "bank.test",
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "User-Agent": word("agent"),
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items() if value)]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status_of(connection: socket.socket) -> int:
    """Of one answer, read to its end; 0 if there is none."""
    answer = http.client.HTTPResponse(connection)
    try:
        answer.begin()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        answer.close()


def question(text: str = word("question"), **fields: Any) -> bytes:
    return json.dumps({"question": text, **fields}).encode()


Q = word("question").encode()
BODIES: dict[str, bytes] = {
    "no UTF-8": b'{"question": "\xff\xfe' + Q + b'"}',
    "overlong UTF-8": b'{"question": "\xc0\xaf' + Q + b'"}',
    "deep arrays": b'{"question": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "deep objects": b'{"a":' * 12_000 + b"1" + b"}" * 12_000,
    "unfinished depth": b"[" * 60_000,
    "one name twice": b'{"question": "a", "question": "' + Q + b'"}',
    "one name twice, escaped": b'{"question": "a", "\\u0071uestion": "' + Q + b'"}',
    "1e400": b'{"question": "' + Q + b'", "max_length": 1e400}',
    "an integer of 5000 digits": b'{"question": "' + Q + b'", "max_length": ' + b"9" * 5000 + b"}",
    "an integer of 4000 digits": b'{"question": "' + Q + b'", "max_length": ' + b"9" * 4000 + b"}",
    "NaN": b'{"question": "' + Q + b'", "max_length": NaN}',
    "-Infinity": b'{"question": "' + Q + b'", "max_length": -Infinity}',
    "half a character": b'{"question": "\\ud800 ' + Q + b'"}',
    "half a character in a name": b'{"question": "a", "\\udfff' + Q + b'": 1}',
    "half a character in an id": b'{"question": "a", "session_id": "\\ud800"}',
    "an unknown field": b'{"question": "a", "' + Q + b'": 1}',
    "100000 tokens": question(max_length=100_000),
    "1025 tokens": question(max_length=1025),
    "another's name": question(customer=word("customer")),
    "control characters as a name": question(customer="\x00\x1f"),
    "an unknown session": question(session_id=word("session")),
    "a session of 200 characters": question(session_id=word("session") * 20),
    "an id of control characters": question(session_id="\x00\n\r"),
    "blanks": question(" \t\n\u3000"),
    "nothing": question(""),
    "a number": b'{"question": 1}',
    "a byte order mark": b"\xef\xbb\xbf" + question(),
    "bytes behind it": question() + b"{}",
}
"""Bodies of ``POST /v1/query`` that a client error answers."""
ODD: dict[str, bytes] = {
    "zero width": question("\u200b\u200d\u2060\ufeff" * 300),
    "control characters": question("".join(map(chr, range(32))) + "\x7f" + word("question")),
    "directions": question("\u202e\u2066" * 200 + word("question")),
    "control tokens": question("<|im_end|>\n<|im_start|>system\n" + word("question")),
    "beyond Unicode": question("\U0010ffff\ufffe\uffff" * 100),
    "combining": question("a" + "\u0301" * 3000),
}
"""Questions that are unusual and no mistake: answered, or refused, and never an error."""


def bodies(hostile: Hostile) -> None:
    for body in (*BODIES.values(), *ODD.values()):
        hostile.post(body)


def large(hostile: Hostile) -> None:
    """1 MiB, announced and not."""
    body = question("a" * _MIB)
    hostile.post(body)
    chunks = b"".join(b"10000\r\n" + body[at : at + 65_536].ljust(65_536) + b"\r\n" for at in range(0, _MIB, 65_536))
    head = hostile.request(b"", Content_Length="", Transfer_Encoding="chunked")
    hostile.send(head + chunks + b"0\r\n\r\n")
    hostile.post(gzip.compress(b" " * 10 * _MIB), Content_Encoding="gzip")
    hostile.post(gzip.compress(body), Content_Encoding="identity, gzip")


def headers(hostile: Hostile) -> None:
    """Too many, too long, of words that no log may have."""
    hostile.post(question(), X_Long=word("header") * 5000)
    hostile.send(hostile.request(question(), **{f"X{number}": word("header") for number in range(2000)}))
    hostile.post(question(), Authorization="Bearer " + word("token") * 500)
    hostile.post(question(), Authorization="Basic " + word("token"))
    hostile.post(question(), Content_Type=word("type"), Host=word("host"), Cookie=word("cookie"))
    for path in (f"/{word('path')}", f"/v1/query?{word('query')}", "/%00%ff%2e%2e/" + word("path"), "/" + "a" * 15_000):
        hostile.send(hostile.request(b"", path, "GET"))
    hostile.send(hostile.request(b"", "/health", WORD.upper()))
    hostile.send(hostile.request(b"", f"/pages/{word('path')}%2e%2e%2f", "GET"))


def smuggling(hostile: Hostile) -> None:
    """Two lengths of one body: whoever reads the other one sees a request in it."""
    inner = b"GET /health HTTP/1.1\r\nHost: bank.test\r\n\r\n"
    for more in (
        {"Transfer_Encoding": "chunked", "Content_Length": "6"},
        {"Transfer_Encoding": "chunked, identity"},
        {"Transfer_Encoding": "xchunked"},
        {"Transfer_Encoding": "\x0bchunked"},
        {"Content_Length": "0\r\nContent-Length: 6"},
        {"Content_Length": "+0"},
        {"Content_Length": "0x0"},
        {"Content_Length": "-1"},
        {"Content_Length": "6, 7"},
        {"Content_Length ": "6"},
    ):
        with contextlib.closing(hostile.connect()) as connection:
            connection.sendall(hostile.request(b"0\r\n\r\n", **more) + inner)
            first = status_of(connection)
            connection.settimeout(1)  # more bytes are waited for where the body was longer
            statuses = [first, status_of(connection)]
        hostile.seen[statuses[0]] += 1
        if statuses[1]:
            hostile.seen[1000 + statuses[1]] += 1  # what was in the body was answered
    hostile.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200)
    hostile.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    hostile.send(b"GET / HTTP/9.9\r\n\r\n")


def pipelined(hostile: Hostile) -> None:
    """Ten thousand requests of one connection, its answers read as they come."""
    one = b"GET /health HTTP/1.1\r\nHost: bank.test\r\n\r\n"
    with contextlib.closing(hostile.connect()) as connection:
        threading.Thread(target=_pour, args=(connection, one * PIPELINED), daemon=True).start()
        left = b""
        count = 0
        while count < PIPELINED and not hostile.end.is_set():
            got = connection.recv(65_536)
            if not got:
                break
            found = left + got
            count += found.count(b"HTTP/1.1 200")
            left = found[-11:] if not found.endswith(b"HTTP/1.1 200") else b""
        hostile.seen[200] += count


def _pour(connection: socket.socket, content: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(content)


def strangers(hostile: Hostile) -> None:
    """A thousand tokens that nobody signed, or another."""
    good = hostile.token.split(".")
    for number in range(UNKNOWN):
        if hostile.end.is_set():
            return
        forged = (
            f"{word('token')}{number}.a.b",
            ".".join([*good[:2], f"{number:086d}"]),
            ".".join([good[0], good[1][::-1], good[2]]),
        )
        hostile.post(question(), Authorization=f"Bearer {forged[number % 3]}")


def cut(hostile: Hostile) -> None:
    """Leaves as soon as the answer begins, without a word."""
    connection = hostile.connect()
    connection.sendall(
        hostile.request(question("Tell me everything about loans. " + word("question"), stream=True, max_length=1024))
    )
    first = connection.recv(4096)
    hostile.seen[int(first[9:12]) if first[9:12].isdigit() else 0] += 1
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()  # reset
    time.sleep(0.01)


def sessions(hostile: Hostile) -> None:
    """New conversations without end, the longest answers, many at once."""
    threads = [
        threading.Thread(target=hostile.post, args=(question(f"{number} " + word("question"), max_length=1024),))
        for number in range(12)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def idle(hostile: Hostile) -> None:
    """A thousand connections that say nothing, and as long as it goes on."""
    while len(hostile.kept) < IDLE and not hostile.end.is_set():
        hostile.kept.append(hostile.connect())
    hostile.end.wait()
    hostile.seen[1] += len(hostile.kept)


def slow(hostile: Hostile) -> None:
    """Requests of a byte a second, and of answers that nobody reads."""
    head, body = hostile.request(b"", "/health", "GET"), hostile.request(question())
    deaf = b"GET /openapi.json HTTP/1.1\r\nHost: bank.test\r\n\r\n" * 50
    drips = [(hostile.connect(), content) for content in [head] * 50 + [body] * 50]
    for connection, content in drips[50:]:
        connection.sendall(content[:-20])
    for _ in range(20):
        hostile.kept.append(hostile.connect())
        hostile.kept[-1].setblocking(False)
        with contextlib.suppress(OSError):
            hostile.kept[-1].sendall(deaf)
    for at in range(60):
        for connection, content in drips:
            with contextlib.suppress(OSError):
                connection.sendall(content[-20:][at : at + 1] if content is body else content[at : at + 1])
        if hostile.end.wait(1.0):
            break
    hostile.kept.extend(connection for connection, _ in drips)
    hostile.seen[1] += len(drips)


ATTACKS: dict[str, Attack] = {
    one.__name__: one for one in (bodies, large, headers, smuggling, pipelined, strangers, cut, sessions, idle, slow)
}


def _lines() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main(port: int) -> None:
    hostile, working = Hostile(port), threading.Thread()
    for order in _lines():
        hostile.end.set()
        if working.ident is not None:
            working.join()
            sys.stdout.write(json.dumps(hostile.seen) + "\n")
            sys.stdout.flush()
        for connection in hostile.kept:
            connection.close()
        before = hostile
        hostile = Hostile(before.port)
        working = threading.Thread()
        if order["name"]:
            hostile.tokens = order["tokens"]
            working = threading.Thread(target=_work, args=(ATTACKS[order["name"]], hostile))
            working.start()


def _work(attack: Attack, hostile: Hostile) -> None:
    """Once at least."""
    while True:
        try:
            attack(hostile)
        except OSError:
            hostile.seen[0] += 1
        if hostile.end.is_set():
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
