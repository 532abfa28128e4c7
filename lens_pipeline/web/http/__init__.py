"""HTTP itself: ranges, conditions, bodies, names, logs. Nothing of what is served."""
