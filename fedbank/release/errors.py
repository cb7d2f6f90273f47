"""What is wrong with a release, a change or the repository."""

from fedbank.errors import FedBankError


class ReleaseError(FedBankError):
    """Something about a release is not what the signatories agreed to; what was adopted before stays in place.

    ``check`` names the check that failed, in one word, for machines.
    """

    def __init__(self, check: str, message: str) -> None:
        super().__init__("".join(char if char.isprintable() else "?" for char in message))  # it may quote a stranger
        self.check = check
