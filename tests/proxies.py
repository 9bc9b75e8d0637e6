"""A proxy that does not answer, as the environment of every client."""

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
DEAD_PROXY = dict.fromkeys([*NAMES, *map(str.lower, NAMES)], "http://127.0.0.1:9")
EXEMPTIONS = ("NO_PROXY", "no_proxy")
