"""What the report shows: runs, scores, neighbours."""
