"""What is well or not, how much, how late. No routes, no FastAPI."""
