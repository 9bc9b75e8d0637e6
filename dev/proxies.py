"""Exempt this machine from the proxies that the environment names."""

from collections.abc import Mapping

THIS_MACHINE = "127.0.0.1,::1,localhost"


def without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables that exempt this machine and the hosts already exempt in `environ`."""
    names = ("NO_PROXY", "no_proxy")  # some clients read only one of them
    exempt = [environ[name] for name in names if environ.get(name)]
    return dict.fromkeys(names, ",".join([*dict.fromkeys(exempt), THIS_MACHINE]))
