"""A view for each question."""
