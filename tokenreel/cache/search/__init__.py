"""Search of a store by patch: which patches of all clips are most similar to one or several."""
