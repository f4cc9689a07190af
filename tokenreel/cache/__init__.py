"""Files: the token store, the embedding file, and the types that every package shares."""
