"""What can go wrong for whoever runs the suite."""


class Failure(Exception):
    """Ends the command with its message, one line that says what to do, and exit code 1."""
