"""STAN and the methods that it is compared with: two streams of scenes, tags of a clip."""
