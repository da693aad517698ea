"""What is seen of a study while it runs: progress, estimates, W&B."""
