"""Local training of one bank for one round, and evaluation."""
