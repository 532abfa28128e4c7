"""The services that generate: a file each. No routes, no SQL."""
