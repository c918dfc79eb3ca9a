"""Measures of results against ground truth."""
