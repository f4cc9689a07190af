"""Look after stores: verify, repair, copy, export, import, and measure what a codec costs."""
