"""The one HTTP client that requests to providers leave by."""
