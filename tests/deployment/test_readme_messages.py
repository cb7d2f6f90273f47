"""The tables of messages in both READMEs quote what the programs really say."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def said() -> str:
    """Every text of the programs, with ``…`` for what is filled in."""
    found = []
    for folder in ("fedbank", "server/fedbank_server", "client/fedbank_client"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def quoted(side: str) -> list[str]:
    """Messages in the first column of the section on releases, each up to what differs."""
    section = (ROOT / side / "README.md").read_text("utf-8").split("\n## Releases\n")[1].split("\n## ")[0]
    cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell) if message[0] in "EN…T"]
    return [re.sub(r"^(NOT  |… )", "", message) for message in messages]


@pytest.mark.parametrize("side", ["client", "server"])
def test_every_message_in_the_readme_is_one_of_the_programs(side: str) -> None:
    corpus, wrong = said(), []
    messages = quoted(side)
    assert len(messages) > 15
    for message in messages:
        fixed = re.split(r"…|\d|bank-a|stable|canary|: ", message)[0].strip()
        if fixed not in corpus:
            wrong.append(message)
    assert wrong == []
