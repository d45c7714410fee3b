"""Controlled experiments: data sets with known poisons, fine-tuning on them, generating answers, and judging them."""
