"""The report of a run: one HTML file that holds all it shows and needs no server."""
