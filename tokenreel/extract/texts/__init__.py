"""Texts of clips: asked of a vision-language model, and kept as lines of JSON."""
