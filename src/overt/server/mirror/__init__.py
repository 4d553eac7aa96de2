"""A mirror of the store for other machines: the hub protocol and OCI."""
