"""Read a store: chosen frames of chosen blocks, damage reported and never returned as zeros."""
