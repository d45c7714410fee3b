"""Is it true: train again without the rows that were called, and ask again."""
