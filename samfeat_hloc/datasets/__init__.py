"""Datasets as they lie on disk."""
