"""Controlled data sets: clean rows with planted poison of a known kind."""
