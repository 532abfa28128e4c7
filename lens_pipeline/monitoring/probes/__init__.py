"""Probes of what the pipeline needs: for `/api/health`, the alerts and `lens doctor`."""
