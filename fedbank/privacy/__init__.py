"""Differential privacy: plan, sampling, clipping, noise, accounting, ledger. Only ``plan`` and ``budget`` import siblings."""
