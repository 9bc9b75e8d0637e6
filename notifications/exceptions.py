"""The errors notifications raises; the docstring is the message."""


class UnknownRecipient(Exception):
    """An order has ended for a user whom users does not know."""

    def __str__(self) -> str:
        return str(self.__doc__)
