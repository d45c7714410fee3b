"""Models: weights and tokenizers from disk or hub, adapters, fingerprints, training metadata."""
