"""Phase 3: embeddings -> metrics -> tables.  Imports no torch."""
