"""Certificates for tests, and a real RabbitMQ that listens with them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.servers import Servers

HERE, ELSEWHERE = "DNS:localhost,IP:127.0.0.1", "DNS:elsewhere.example.org"
LISTEN = """\
ssl:clear_pem_cache(),
rabbit_networking:ensure_ssl(),
rabbit_networking:start_ssl_listener({{"127.0.0.1", {port}}},
  [{{cacertfile, "{home}/ca.crt"}},
   {{certfile, "{home}/{who}.crt"}},
   {{keyfile, "{home}/{who}.key"}}], 1).
"""
CLOSE = 'rabbit_networking:stop_tcp_listener({{"127.0.0.1", {port}}}).'


def make_certificates(folder: Path) -> None:
    """Create a CA and its certificates for `here` and for `elsewhere`."""
    openssl = ("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=shop")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    signed = ("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-addext")
    for file, more in (
        ("ca", ()),
        ("here", (*signed, f"subjectAltName={HERE}")),
        ("elsewhere", (*signed, f"subjectAltName={ELSEWHERE}")),
    ):
        out = ("-keyout", folder / f"{file}.key", "-out", folder / f"{file}.crt")
        subprocess.run([*openssl, *key, *out, *more], check=True, capture_output=True)


def give_certificates(servers: Servers, folder: Path, name: str) -> None:
    """Copy the certificates into the state folder of a server, readable for its user only."""
    home = servers.state / name
    for file in (*folder.glob("*.crt"), *folder.glob("*e.key")):
        copy = home / file.name
        copy.write_bytes(file.read_bytes())
        copy.chmod(0o600)
        os.chown(copy, home.stat().st_uid, home.stat().st_gid)


@contextmanager
def encrypted_broker(servers: Servers, ports: dict[str, int]) -> Iterator[None]:
    """Let RabbitMQ listen on these ports too, each by the name of its certificate."""
    for who, port in ports.items():
        listen = LISTEN.format(home=servers.state / "rabbitmq", who=who, port=port)
        assert servers.rabbitmqctl("eval", listen).strip() == "ok"
    yield
    for port in ports.values():
        servers.rabbitmqctl("eval", CLOSE.format(port=port))
