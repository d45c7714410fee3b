"""Experiment trackers: Weights & Biases, MLflow, TensorBoard. Each package is imported only when it is used."""
