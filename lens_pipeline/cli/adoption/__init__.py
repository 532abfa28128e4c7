"""Commands that take over what an older system left: its files, and its SQLite database."""
