"""Networks: the classifier around them, tracing and fusing, noise layers, weights files."""
