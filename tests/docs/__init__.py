"""README and docs: links have targets, samples parse, and commands run."""
