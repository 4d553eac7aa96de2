"""From components to verdicts: pure functions."""
