"""Files: the token store, the embedding file, and the words every package shares."""
