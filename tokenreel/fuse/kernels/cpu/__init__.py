"""Attention over stored codes on a CPU, in loops compiled by Numba."""
