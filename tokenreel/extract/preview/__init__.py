"""Preview of an extraction: its cost, the speed of this machine, a picture of a clip."""
