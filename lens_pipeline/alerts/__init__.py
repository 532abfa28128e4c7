"""Tells people of what they must mend: by whatever Apprise reaches, and no more than they need."""
