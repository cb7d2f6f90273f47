"""Benchmarks: ``python -m simulations.benchmarks.NAME [--json]``, one JSON object per line."""
