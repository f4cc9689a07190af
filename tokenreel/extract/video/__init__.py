"""Decode a video: whole frames in presentation order, or an error with the reason."""
