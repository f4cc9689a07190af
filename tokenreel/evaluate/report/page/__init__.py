"""The page of the report: one HTML file that loads nothing."""
