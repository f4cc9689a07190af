"""Train runs, several on one stream over the store."""
