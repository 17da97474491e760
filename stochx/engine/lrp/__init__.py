"""Layer-wise relevance propagation: rules, operations, and the tape that applies them."""
