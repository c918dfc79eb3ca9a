"""Whole runs: from a dataset, or photos, to results."""
