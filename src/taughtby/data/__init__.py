"""Training data: reads records of every format as examples, applies chat templates, and tokenizes."""
