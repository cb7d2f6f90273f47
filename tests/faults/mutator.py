"""Messages as a liar makes them: a real one, changed somewhere, and signed again with the liar's own key.

Knows the grammars (docs/formats/envelope.md, JSON, safetensors) and nothing of the code that reads them.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

FRAGMENTS = (
    *("null", "true", "[]", "{}", '""', "-1", "0", "1", "-0", "1.5", "1e-320", "1e308", "1e400", "-1e400"),
    *("NaN", "Infinity", "-Infinity", "1" + "0" * 400, "9" * 5000, str(2**63), str(2**64), str(-(2**63) - 1)),
    *('"\\ud800"', '"\\udfff x"', '"\\u0000"', '"[/x]"', '"[bold]"', '"\\u001b[2J"', '"\\u202etxt"', '"a\\nb"'),
    *('"' + "a" * 5000 + '"', "[" * 300 + "]" * 300, "[" * 3000, '{"a":' * 100 + "1" + "}" * 100, '{"a":1,"a":2}'),
    *('"true"', '["x"]', "[[1,2],[3]]", "1e999999999", "0x10", "1_000", "'x'", '"\\x00"', "\ufeff1"),
)
"""Values of JSON, and what some readers take for one."""
TEXTS: tuple[str | None, ...] = (
    *(None, "", "refused [/x]", "[/]", "[link=file:///etc/passwd]x[/link]", ":skull:", "\x1b[2J\x1b]0;owned\x07"),
    *("\u202egnihtyna", "a\r\n2026-01-01 00:00:00 INFO forged", "\ud800", "x" * 300_000, "\x00", "%s%n{0}{x}"),
    *(f"later: not before {hour}Z" for hour in ("2026-03-01T12:00", "9999-12-31T23:59", "0001-01-01T00:00", "\ud800")),
    *("later: not before 2026-13-01T12:00Z", "later: " + "9" * 5000, "é" * 1000, "\u2028"),
)
"""What may come with an error of Flower."""
NAMES = ("", "a", "\x00", "-", "A B", "coordinator", "bank-1", "../x", "x" * 70_000, "é", "update", "call", "roster")


class Mutator:
    """Draws every change from ``seed``."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def text(self) -> str | None:
        """What an error may say."""
        return self.random.choice(TEXTS)

    def blob(self, content: bytes) -> bytes:
        """Bits flipped, bytes cut out or put in, the end cut off: one to four times."""
        changed, random = bytearray(content), self.random
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(changed) + 1)
            match random.randrange(5):
                case 0 if at < len(changed):
                    changed[at] ^= 1 << random.randrange(8)
                case 1:
                    del changed[at : at + random.randint(1, 40)]
                case 2:
                    changed[at:at] = random.choice(
                        (b"\xff" * 8, b"\x00", b"\xed\xa0\x80", b"[/x]", b"\x1b[2J", b"9" * 99)
                    )
                case 3:
                    changed[at : at + 8] = random.randbytes(8)
                case _:
                    del changed[max(at, 1) :]
        return bytes(changed)

    def json_text(self, content: bytes) -> bytes:
        """One to three values, names or fields of a document changed; sometimes the text itself."""
        if self.random.random() < 0.1:
            return self.blob(content)
        document, marks = json.loads(content), {}
        for number in range(self.random.randint(1, 3)):
            document = self._change(document, f"@@{number}@@", marks)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        for mark, fragment in marks.items():
            text = text.replace(f'"{mark}"', fragment)
        if self.random.random() < 0.05:
            text = text.replace("{", '{"format":1,', 1)
        return text.encode("utf-8", "surrogatepass")

    def safetensors(self, content: bytes) -> bytes:
        """The length, the header, the metadata in it or the values changed."""
        length = int.from_bytes(content[:8], "little")
        header, values = content[8 : 8 + length], content[8 + length :]
        match self.random.randrange(6):
            case 0:
                length = self.random.choice((0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1, len(content)))
                return length.to_bytes(8, "little") + header + values
            case 1:
                header = self.json_text(header)
            case 2:
                values = self._values(values)
            case 3:
                return self.blob(content)
            case _:
                fields = json.loads(header)
                inner = self.json_text(fields["__metadata__"]["fedbank"].encode())
                fields["__metadata__"]["fedbank"] = inner.decode("utf-8", "replace")
                header = json.dumps(fields).encode()
        return len(header).to_bytes(8, "little") + header + values

    def envelope(
        self, kind: str, signer: str, context: Mapping[str, str], payload: bytes, sign: Callable[[bytes], bytes]
    ) -> bytes:
        """``payload`` signed as ``signer``; one in four envelopes lies about itself, or is broken afterwards."""
        random, values = self.random, dict(context)
        lie = random.randrange(24)
        if lie == 0:
            kind = random.choice(NAMES)
        elif lie == 1:
            signer = random.choice(NAMES)
        elif lie == 2 and values:
            values[random.choice(list(values))] = random.choice(NAMES)
        elif lie == 3:
            values |= {f"n{number}": "x" for number in range(random.choice((1, 14, 40)))}
        digest = hashlib.sha256(payload).digest()
        size = len(payload) if lie != 4 else random.choice((0, 2**40, 2**63, len(payload) + 1))
        pairs = b"".join(_text(name) + _text(values[name]) for name in sorted(values))
        head = b"fedbank-envelope/1\n" + _text(kind) + _text(signer) + bytes([len(values) % 256]) + pairs
        head += struct.pack(">Q", size) + digest
        sealed = head + sign(b"fedbank-envelope/1 signature\0" + head) + payload
        return self.blob(sealed) if lie == 5 else sealed

    def _values(self, values: bytes) -> bytes:
        at = 4 * self.random.randrange(max(1, len(values) // 4))
        word = self.random.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f"))
        return values[:at] + word + values[at + 4 :]

    def _change(self, document: Any, mark: str, marks: dict[str, str]) -> Any:
        """``document`` with one change; ``mark`` stands for a fragment that is put in once it is text."""
        places = list(_places(document))
        if not places:
            return document
        holder, key = self.random.choice(places)
        marks[mark] = self.random.choice(FRAGMENTS)
        action = self.random.randrange(6)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, dict):
            holder[self.random.choice(NAMES)] = holder.pop(key)
        elif action == 2 and isinstance(holder, dict):
            holder[self.random.choice(NAMES)] = mark
        elif action == 3 and type(holder[key]) in (int, float):
            holder[key] = self.random.choice((holder[key] + 1, -holder[key], holder[key] * 2, holder[key] * 1e-3))
        else:
            holder[key] = mark
        return document


def _places(value: Any) -> Any:
    """Every value in a document, as what holds it and where."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")[:65_535]
    return struct.pack(">H", len(encoded)) + encoded
