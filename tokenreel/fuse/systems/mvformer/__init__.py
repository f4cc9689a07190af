"""MV-Former, with CARL and the baselines: the same parts in other measures."""
