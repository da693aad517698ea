"""All of `outputs` on one local page."""
