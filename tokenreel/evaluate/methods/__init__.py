"""The metrics as functions of arrays."""
