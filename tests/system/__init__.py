"""The whole suite as real processes, driven over HTTP and by `nameko shell`."""
