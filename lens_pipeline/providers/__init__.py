"""Services that generate: one file each. No routes, no SQL."""
