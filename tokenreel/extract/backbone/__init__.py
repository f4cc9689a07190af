"""The frozen backbone: its weights, and images to tokens of chosen blocks."""
