"""Copies of the previous version beside copies of this one: `make test-upgrade`."""
