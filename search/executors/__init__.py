"""Who runs workers where."""
