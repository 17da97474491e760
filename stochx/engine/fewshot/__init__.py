"""Few-shot learning: episodes, the base of heads, LRP rules, and the whole network."""
