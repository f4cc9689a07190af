"""Embed the clips of a store with a trained model."""
