"""The pages that a researcher looks at: ``write_run_report`` and ``write_sweep_report``."""

from fedbank_simulations.report.page import write_run_report
from fedbank_simulations.report.sweep import write_sweep_report

__all__ = ["write_run_report", "write_sweep_report"]
