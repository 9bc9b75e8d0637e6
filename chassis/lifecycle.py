"""The steps of an extension's life that Nameko does not have."""


class Lifecycle:
    """An extension that takes part in the start and the stop of its container.

    `chassis.container.Container` calls these methods, each for all extensions, in this order:
    `check`, `open`, Nameko's `setup` and `start`; at the stop `drain`, then Nameko's `stop`.
    """

    def check(self) -> None:
        """Read the settings. Raises ConfigurationError, which ends the process with one line."""

    def open(self) -> None:
        """Start servers that must answer while other extensions wait for the broker in `setup`."""

    def drain(self) -> None:
        """Accept no more work from clients, and finish the work in progress."""
