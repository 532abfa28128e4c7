"""Messages to people about problems. Rules for Prometheus are in `deploy/`."""
