"""Systems: what a run trains, one a file."""
