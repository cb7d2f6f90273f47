"""What a party's log of evidence is called in its checkpoints."""


def origin(consortium: str, party: str) -> str:
    """A name without spaces, as a signed note needs it (C2SP signed-note, key names)."""
    return f"fedbank/{consortium.replace(' ', '-')}/{party}"
