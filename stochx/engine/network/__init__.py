"""Networks: the classifier that wraps them, tracing and fusing, noise layers, weights files."""
