"""Differential privacy: numbers, plan, sampling, clipping, noise, accounting, ledger, budget.

Only ``numbers``, ``plan`` and ``budget`` import siblings.
"""
