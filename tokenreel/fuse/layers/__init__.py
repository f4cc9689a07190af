"""The layers of a model: pooling of tokens, fusion over time."""
