"""What is left of the figures of the event log."""
