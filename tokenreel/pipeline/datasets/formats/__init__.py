"""File formats of data sets: pickles, TFRecords, JPEGs."""
