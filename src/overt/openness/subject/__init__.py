"""What is examined: the files of a model and what is claimed about it."""
