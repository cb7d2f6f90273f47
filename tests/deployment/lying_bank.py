"""A member with valid credentials whose acceptance says what the file LIE names (``acceptances.LIES``), empty: honest.

``python lying_bank.py FOLDER [SETTING...]`` runs it in place of ``fedbank client start``.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from acceptances import LIES

from fedbank.cli import main
from fedbank.proposal import Acceptance
from fedbank_client.desk import Desk

honest = Desk.consider


def consider(self: Desk, content: bytes) -> Acceptance:
    fields, name = asdict(honest(self, content)), Path(os.environ["LIE"]).read_text("utf-8")
    if name:
        LIES[name][0](fields)
    return Acceptance(**fields)


if __name__ == "__main__":
    Desk.consider = consider  # type: ignore[method-assign]
    sys.exit(main(["client", "start", "--unsupervised", "--dir", *sys.argv[1:]]))
