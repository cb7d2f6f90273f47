"""The one error of a log of evidence."""

from fedbank.errors import FedBankError


class EvidenceError(FedBankError):
    """A log that is not the one that was written, a proof that does not hold, or an entry that must not be written.

    ``index`` is the number of the first entry that can no longer be relied on, where there is one.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index
