"""Benchmarks of how well methods find planted rows: suites, runs, metrics and tables."""
