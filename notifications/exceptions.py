"""The errors notifications raises."""


class UnknownRecipient(Exception):
    """An order has ended for a user whom users does not know."""
