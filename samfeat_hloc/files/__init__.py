"""Files: images, HDF5, text; written whole, locked, with a record of what made them."""
