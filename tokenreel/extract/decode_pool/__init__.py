"""Decode processes: jobs to images in shared memory, supervised."""
