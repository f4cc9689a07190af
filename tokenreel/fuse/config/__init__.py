"""Configuration of a training run, free of torch."""
