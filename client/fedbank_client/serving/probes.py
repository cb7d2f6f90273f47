"""The bank's probe questions: what a new release has to get right before it answers anybody."""

import json
from pathlib import Path

from fedbank.errors import DataError
from fedbank.serving.rollout.mirroring import Probe

_MOST_BYTES, _MOST = 1 << 20, 500


def read_probes(path: Path) -> tuple[Probe, ...]:
    """One JSON object a line: ``question``, and the text ``expect`` that its answer has to contain.

    Raises:
        DataError: names the line, never quotes it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"Expected probe questions in {path}, got: {error.strerror}. Name the right file.") from None
    lines = content.splitlines()
    if len(content) > _MOST_BYTES or len(lines) > _MOST:
        raise DataError(f"Expected at most {_MOST} probe questions and {_MOST_BYTES} bytes in {path}, got more.")
    found = [_probe(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"Expected probe questions in {path}, got none. Leave rollout.probes out to ask none.")
    return tuple(found)


def _probe(line: bytes, where: str) -> Probe:
    try:
        said = json.loads(line)
        question, expect = said.pop("question"), said.pop("expect")
        texts = isinstance(question, str) and isinstance(expect, str)
        if said or not texts or not question.strip() or not expect.strip():
            raise ValueError
        return Probe(question, expect)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f'Expected {{"question": "...", "expect": "..."}} in {where}, got something else.') from None
