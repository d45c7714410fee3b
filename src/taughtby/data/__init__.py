"""Training data: records of every format as examples, as text under a chat template, as tokens."""
