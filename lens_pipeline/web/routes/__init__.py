"""The routes: parse, authorise, call, answer."""
