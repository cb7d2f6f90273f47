"""Silence from the libraries that models are loaded and trained with."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """No telemetry, no update check, no warnings about things we chose."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    for name in ("flwr", "transformers", "absl", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # importing it has undone what was set above
    transformers_logging.disable_progress_bar()
