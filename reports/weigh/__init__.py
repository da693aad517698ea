"""What it says, and how surely."""
