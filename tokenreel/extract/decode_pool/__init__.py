"""Supervised decode processes: clips to images in shared memory."""
