"""Saved maps: building, changing, and localizing photos in them."""
