"""Phase 2: token store -> pooling and fusion models -> embeddings."""
