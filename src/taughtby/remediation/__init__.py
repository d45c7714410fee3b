"""Clean the training data with a trace, retrain, and report the results."""
