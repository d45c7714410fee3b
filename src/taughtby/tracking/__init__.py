"""Experiment trackers: Weights & Biases, MLflow, TensorBoard. Each package is imported when it is asked for."""
