"""Differential privacy: plan, sampling, clipping, noise, accounting, ledger, budget.

Only ``plan``, ``budget``, ``accounting`` and ``composition`` import siblings.
"""
