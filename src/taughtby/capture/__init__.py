"""One pass over a batch: hidden states and gradients, at chosen layers or of the weights."""
