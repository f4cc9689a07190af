"""Pictures of embeddings: the page of `evaluate report`, aligned videos, retrieval strips."""
