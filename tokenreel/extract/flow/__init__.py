"""An extraction run: from a manifest to committed clips."""
