"""Where scenes of a video begin: methods, and the run over the videos of a data set."""
