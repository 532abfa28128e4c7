"""HTTP itself, apart from what is served: ranges, conditions, bodies, names, logs."""
