"""One extraction: from a manifest to committed clips."""
