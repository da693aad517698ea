"""Zero-shot scores of models."""
