"""Attention over stored codes on a GPU, in Triton."""
