"""The metrics, one file each: name, titles, needed data, rows, computation and resampling."""
