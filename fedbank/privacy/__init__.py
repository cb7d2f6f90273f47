"""Differential privacy: numbers, plan, sampling, clipping, noise, accounting, ledger, budget.

Only ``numbers``, ``plan``, ``budget``, ``accounting`` and ``composition`` import siblings.
"""
