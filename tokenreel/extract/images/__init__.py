"""From a frame to the images that a backbone sees."""
