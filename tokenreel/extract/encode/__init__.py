"""Tokens to the bytes of a store, and the identity that the store records."""
