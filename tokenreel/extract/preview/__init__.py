"""Look before extracting: cost, speed of this machine, a picture of a clip."""
