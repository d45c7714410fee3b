"""A controlled world: data with a known poison, a model taught on it, its answers, and a judge of them."""
