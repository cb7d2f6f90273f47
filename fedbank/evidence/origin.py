"""What a party's log of evidence is called in its checkpoints."""

import re


def origin(consortium: str, party: str) -> str:
    """A name without spaces and plus signs, as a signed note needs it (C2SP signed-note, key names)."""
    return f"fedbank/{re.sub(r'[ +]', '-', consortium)}/{party}"
