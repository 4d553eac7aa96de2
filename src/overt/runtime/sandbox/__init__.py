"""The sandbox of a worker, and the proof that it holds."""
