"""What is well or not, how much and how late. HTTP routes belong in `web`."""
