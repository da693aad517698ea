"""What an architecture is: its description, layer map, exact cost, budget solver and decoder."""
