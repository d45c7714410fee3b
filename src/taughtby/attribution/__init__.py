"""Queries against an index: ranked rows, scored tokens, significance, sanity checks."""
