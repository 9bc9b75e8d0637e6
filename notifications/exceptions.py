"""The exceptions of notifications."""


class UnknownRecipient(Exception):
    """users does not know the user of a settled order."""
