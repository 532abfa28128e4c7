"""The assets: load rows, fetch, render, store, report."""
