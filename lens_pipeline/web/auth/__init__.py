"""Who asks, what they may see, and how they show it."""
