"""What is on disk, read."""
