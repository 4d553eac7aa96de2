"""Merging models: the arithmetic, the file that says how much of which, and the weights' files."""
