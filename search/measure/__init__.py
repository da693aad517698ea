"""Models timed in engines that people run them with on devices."""
