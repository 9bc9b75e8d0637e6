"""The exceptions of billing."""


class RefTaken(Exception):
    """Another transaction has inserted an operation with the same ref since it was looked up."""
