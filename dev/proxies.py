"""Clients of this machine's own servers ask no proxy, whatever the environment names for the rest."""

from collections.abc import Mapping

THIS_MACHINE = "127.0.0.1,::1,localhost"


def without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that exempt this machine from proxies, beside what the environment exempts."""
    names = ("NO_PROXY", "no_proxy")  # some clients read one of them alone
    exempt = [environ[name] for name in names if environ.get(name)]
    return dict.fromkeys(names, ",".join([*dict.fromkeys(exempt), THIS_MACHINE]))
