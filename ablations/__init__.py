"""Designed comparisons: arms × seeds, their differences with intervals, and verdicts."""
