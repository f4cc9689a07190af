"""The folder of a run: configuration, provenance, checkpoint."""
