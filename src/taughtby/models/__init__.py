"""Models: loads weights, tokenizers and adapters from disk or hub; fingerprints; training metadata."""
