"""Models on this disk: the store, where bytes come from, and how they move."""
