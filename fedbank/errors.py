"""One exception tree for everything that a person can put right.

::

    FedBankError              exit code 2: expected, got, and what to do
    ├── ConfigError           an override, a group or a value in conf/
    ├── DataError             a data file, a row, a partition (names file and line)
    ├── ModelError            a base-model folder or identifier
    ├── PrivacyError          a plan that cannot hold, a budget that is spent
    ├── UpdateError           bytes from outside that are not what was agreed
    └── RunError              an output folder, a run that cannot be resumed

Programmer errors stay ``ValueError``/``TypeError``: they carry a traceback, these do not.
"""

from fedbank.foreign import printable_lines


class FedBankError(Exception):
    """Base of every error that FedBank raises on purpose.

    The message is one to three sentences: what was expected, what was found, what to do. It may quote a stranger:
    characters that a terminal would obey, or that nobody can write, become question marks.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable_lines(message))


class ConfigError(FedBankError):
    """An unknown, mistyped or out-of-range setting."""


class DataError(FedBankError):
    """A data file or a partition that cannot be used."""


class ModelError(FedBankError):
    """A base model that is missing, unsafe or of another architecture."""


class PrivacyError(FedBankError):
    """A privacy plan that cannot be built or a privacy budget that does not suffice."""


class UpdateError(FedBankError):
    """An update or adapter from outside that fails validation; nothing was aggregated."""


class RunError(FedBankError):
    """An output folder that holds another run, or a run that cannot be resumed."""
