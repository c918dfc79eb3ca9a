"""The report of a run or of a map: one HTML file that holds all it shows and needs no server."""
