"""Decode a video: whole frames in presentation order, or an error that says why not."""
