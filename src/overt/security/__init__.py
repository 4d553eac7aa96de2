"""URLs, egress, provider keys and signatures."""
