"""The errors billing raises."""


class RefTaken(Exception):
    """Another transaction recorded one of these refs meanwhile; caught where the batch is settled."""
