"""How consortia and banks are called. Nothing is imported here: ``fedbank verify`` reads it too."""

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,61}[A-Za-z0-9])?"
"""A consortium's name: at most 63 letters, digits, spaces, dots, hyphens and underscores."""
BANK = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
"""A bank's name is a DNS label (RFC 1123, 2.1): it becomes a folder, a file name and a certificate's name."""
BANK_MEANING = "a name of at most 63 of a-z, 0-9 and hyphens, such as bank-a"
