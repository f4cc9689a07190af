"""TokenReel: run a frozen vision transformer once over every video, then train on its tokens."""

__version__ = "0.1.0"
