"""Feature vectors on disk: building, growing, verifying and distributing an index."""
