"""The three phases as calls: words of the user to stores, runs and tables."""
