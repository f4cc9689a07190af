"""Frames to the images of a backbone."""
