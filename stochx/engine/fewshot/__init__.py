"""Few-shot learning: episodes, the heads' frame, their relevance, and the whole network."""
