"""Where work is done: threads and processes, devices, several machines."""
