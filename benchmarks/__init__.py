"""What `make bench` measures; each figure is a ratio taken side by side in one run."""
