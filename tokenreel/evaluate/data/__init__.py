"""What a metric takes and gives: clips of an action of an embedding file, rows of results.csv."""
