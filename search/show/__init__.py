"""Output of a running study: progress, estimates, trackers."""
