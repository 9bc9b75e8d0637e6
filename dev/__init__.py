"""Programs for development and operation, called by `make`."""
