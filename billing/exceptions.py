"""The errors billing raises; the docstring is the message."""


class RefTaken(Exception):
    """Another transaction recorded one of these refs meanwhile."""

    def __str__(self) -> str:
        return str(self.__doc__)
