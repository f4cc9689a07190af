"""What a trained run is used for, outside the tables of a paper."""
