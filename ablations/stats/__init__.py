"""Statistics of comparisons. Nothing here needs torch."""
