"""Measurements of the daemon as its users meet it; `python -m benchmarks.NAME`, JSON on stdout."""
