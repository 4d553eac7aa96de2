"""Reading licences: `names.py` knows their names, `match.py` their texts and what was changed."""
