"""The error that a command reports in one line."""


class Failure(Exception):
    """Ends the command with exit code 1. The message is one line that says what to do."""
