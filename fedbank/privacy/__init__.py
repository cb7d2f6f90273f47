"""Differential privacy: plan, sampling, clipping, noise, accounting, ledger, budget.

Only ``plan`` and ``budget`` import siblings.
"""
