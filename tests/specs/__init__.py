"""Compares specifications and diagrams with each other and with the suite."""
