"""Phase 1: video -> frames -> tokens -> token store."""
