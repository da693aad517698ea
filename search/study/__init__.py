"""Many runs: what a study does next, its storage and its workers."""
