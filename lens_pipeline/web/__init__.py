"""HTTP: parse, authorise, call `derivatives`, answer."""
