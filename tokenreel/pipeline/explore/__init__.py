"""Look into a store: its frames, tokens and labels on a local page, and patches like a patch."""
