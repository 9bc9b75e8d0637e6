"""Variables that name a proxy which does not answer."""

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
DEAD_PROXY = dict.fromkeys([*NAMES, *map(str.lower, NAMES)], "http://127.0.0.1:9")
EXEMPTIONS = ("NO_PROXY", "no_proxy")
