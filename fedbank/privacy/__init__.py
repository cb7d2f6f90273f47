"""Differential privacy: plan, sampling, clipping, noise, accounting, ledger. Only ``plan`` imports siblings."""
