"""Write a store: claims, clips of whole segments, one commit a clip."""
