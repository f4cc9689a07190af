"""Attention of learned queries over stored codes in plain torch, and the choice of a faster one."""
