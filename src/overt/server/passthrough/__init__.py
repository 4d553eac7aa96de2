"""Requests forwarded in the provider's own protocol."""
