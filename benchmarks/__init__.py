"""Measurements of guardtok, each a module to run: `python -m benchmarks.encode`."""
