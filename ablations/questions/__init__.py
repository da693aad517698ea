"""Kinds of tables: which cells each wants and what it makes of their results."""
