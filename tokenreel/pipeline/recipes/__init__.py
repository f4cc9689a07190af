"""Experiments: how a data set is extracted, how a row of a paper's table is trained."""
