"""COLMAP: cameras, poses, models, its database, and its solvers."""
