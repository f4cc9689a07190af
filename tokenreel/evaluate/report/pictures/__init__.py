"""Pictures with real frames: thumbnails, strips, matrices, videos."""
