"""One run: the training loop and what it stands on."""
