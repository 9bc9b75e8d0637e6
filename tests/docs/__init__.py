"""README and docs: their links lead somewhere, their samples parse, their commands were run."""
