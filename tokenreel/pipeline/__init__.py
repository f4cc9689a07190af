"""Data sets, recipes, runs and the command line: decides nothing numerical."""
