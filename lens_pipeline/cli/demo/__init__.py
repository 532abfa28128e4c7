"""The demonstration and its samples."""
