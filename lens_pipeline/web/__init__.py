"""The HTTP app: what the sites in front of the pipeline talk to, and two pages for people."""
