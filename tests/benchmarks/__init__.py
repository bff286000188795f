"""Ratios of flowgraph's work to the bare work below it, measured side by side: ``python -m tests.benchmarks``."""
