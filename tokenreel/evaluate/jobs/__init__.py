"""From embedding files to rows of results: independent jobs, in parallel processes."""
