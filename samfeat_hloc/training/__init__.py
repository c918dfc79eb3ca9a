"""Training: pairs of views with exact correspondences, losses as published, and the loop."""
