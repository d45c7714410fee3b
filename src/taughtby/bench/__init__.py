"""Suites, metrics, tables, pictures: how well methods find what was planted."""
