"""Models of other machines: one package a provider, one HTTP client for all."""
