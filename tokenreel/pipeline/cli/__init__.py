"""The command line: reads words, calls the packages, prints tables, ends with a status."""
