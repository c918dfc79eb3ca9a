"""Teachers: what looks at photos before training, and the cache that keeps what they saw."""
