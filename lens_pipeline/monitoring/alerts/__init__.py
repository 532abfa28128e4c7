"""Messages about problems. Rules for Prometheus are in `deploy/`."""
