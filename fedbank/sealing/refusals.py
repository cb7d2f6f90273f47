"""Why bytes from outside were refused: one class and one sentence for each check that can fail.

::

    UpdateError
    └── RefusedError          .check names the check, for logs and counters
        ├── TooLargeError         "size"        more bytes than the reader allows
        ├── MalformedError        "format"      not an envelope, or not exactly one
        ├── WrongKindError        "kind"        signed, but as something else
        ├── UnknownSignerError    "signer"      nobody whose key is known
        ├── BadSignatureError     "signature"   not signed with that key, or changed since
        ├── WrongContextError     "context"     signed for another consortium, campaign, roster, ...
        ├── AlteredPayloadError   "payload"     not the payload that was signed
        └── RosterError           "roster"      not a roster that anybody may rely on
            └── StaleRosterError      "sequence"    an older roster than one that is known
"""

from typing import ClassVar

from fedbank.errors import UpdateError


class RefusedError(UpdateError):
    """Bytes from outside that failed a check; nothing of them was used."""

    check: ClassVar[str] = "format"


class TooLargeError(RefusedError):
    """More bytes than the reader allows; refused before anything was read."""

    check: ClassVar[str] = "size"


class MalformedError(RefusedError):
    """Bytes that are not one whole envelope of this format and nothing else."""


class WrongKindError(RefusedError):
    """An envelope that was signed as something other than what is expected here."""

    check: ClassVar[str] = "kind"


class UnknownSignerError(RefusedError):
    """An envelope in the name of somebody who has no key here (or none any more)."""

    check: ClassVar[str] = "signer"


class BadSignatureError(RefusedError):
    """An envelope that the named signer has not signed, or that was changed since."""

    check: ClassVar[str] = "signature"


class WrongContextError(RefusedError):
    """An envelope that was signed for another context than the one it arrived in."""

    check: ClassVar[str] = "context"


class AlteredPayloadError(RefusedError):
    """A payload that is not the one whose digest was signed."""

    check: ClassVar[str] = "payload"


class RosterError(RefusedError):
    """A roster that names keys twice, lacks a field, or is of another coordinator."""

    check: ClassVar[str] = "roster"


class StaleRosterError(RosterError):
    """A roster with a lower sequence number than one that is known already."""

    check: ClassVar[str] = "sequence"
