"""One request, from a protocol to a local or remote engine."""
