"""Shots to one master video."""
