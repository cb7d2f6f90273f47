"""Text that others wrote, made fit for our screens, logs and files: never a control character, never another line.

A bank, a coordinator, a peer's web server or a model chooses such a text. Terminals obey escape sequences in it, logs
take its line ends for their own, right-to-left overrides show another text than the one that is there, and half a
character (a lone surrogate) cannot be written at all. ``str.isprintable`` is false for all of these.
"""

REPLACEMENT = "?"
"""Stands for every character that is not shown."""


def printable(text: object, longest: int = 4096) -> str:
    """``text`` as one line of printable characters, each other one a question mark; cut to ``longest`` characters."""
    whole = str(text)
    plain = whole[: longest + 1]
    if not plain.isprintable():
        plain = "".join(char if char.isprintable() else REPLACEMENT for char in plain)
    return plain if len(plain) <= longest else plain[: max(longest - 3, 0)] + "..."


def printable_lines(text: object) -> str:
    """``text`` with its lines and tabs as they are: for what we wrote ourselves around the texts of others."""
    whole = str(text)
    if whole.isprintable():
        return whole
    return "".join(char if char.isprintable() or char in "\n\t" else REPLACEMENT for char in whole)
