"""Files on this disk: atomic writes and locks."""
