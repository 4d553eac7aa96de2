"""Wire protocols: each file (or folder) speaks one, and knows nothing of engines and models."""
