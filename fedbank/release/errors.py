"""What is wrong with a release, a change or the repository."""

from fedbank.errors import FedBankError
from fedbank.foreign import printable


class ReleaseError(FedBankError):
    """Something about a release is not what the signatories agreed to; what was adopted before stays in place.

    ``check`` names the check that failed, in one word, for machines.
    """

    def __init__(self, check: str, message: str) -> None:
        super().__init__(printable(message))  # it may quote a stranger
        self.check = check
