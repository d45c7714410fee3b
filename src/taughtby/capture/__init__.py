"""Hidden states and gradients of batches of rows, each from one forward and at most one backward pass."""
