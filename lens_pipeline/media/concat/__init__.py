"""Joining shots, in order, into one master video."""
