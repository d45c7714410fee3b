"""The page served: it can also ask the model, trace a phrase, and compare."""
