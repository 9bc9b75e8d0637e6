"""A CA of one's own, as the chart has it trusted, and real servers whose certificates it has signed."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from conftest import eventually
from dev.ports import free_ports
from dev.servers import Servers
from tests.chart.commands import Run
from tests.chart.environment import WITH_TABLES, raw
from tests.chart.helm import component, containers, objects, of, pods
from tests.system.processes import Process, Suite
from tests.system.shopper import Shopper

CA_FILE = "/etc/shop/ca/ca.crt"
TRUST = ("PGSSLROOTCERT", "SSL_CERT_FILE")
REFUSED = "certificate verify failed"
LISTEN = """\
rabbit_networking:ensure_ssl(),
rabbit_networking:{verb}_listener({{"127.0.0.1", {port}}}{more}).
"""
OPTIONS = ', [{{cacertfile, "{0}/ca.crt"}}, {{certfile, "{0}/server.crt"}}, {{keyfile, "{0}/server.key"}}], 1'
ENCRYPTED = """\
SELECT usename, bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
WHERE usename <> 'postgres' GROUP BY usename
"""


def make_certificates(folder: Path, name: str) -> None:
    """A CA, and a certificate that it has signed for this name."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    signed = ("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-addext", f"subjectAltName=DNS:{name}")
    for file, more in (("ca", ()), ("server", signed)):
        out = ("-keyout", folder / f"{file}.key", "-out", folder / f"{file}.crt")
        command = ["openssl", "req", "-x509", "-subj", f"/CN={file}", *key, *out, *more]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the CA that all of this trusts."""
    folder = tmp_path_factory.mktemp("ca")
    make_certificates(folder, "localhost")
    return folder


@pytest.fixture(scope="module")
def tls_port(servers: Servers, ca: Path) -> Iterator[int]:
    """Both servers have certificates now: PostgreSQL on its port, RabbitMQ on this one beside its own."""
    for name in ("rabbitmq", "postgresql"):
        home = servers.state / name
        for file in ("ca.crt", "server.crt", "server.key"):
            (home / file).write_bytes((ca / file).read_bytes())
            (home / file).chmod(0o600)
            os.chown(home / file, home.stat().st_uid, home.stat().st_gid)
    port = free_ports()["rabbitmq"]
    options = OPTIONS.format(servers.state / "rabbitmq")
    assert (
        servers.rabbitmqctl("eval", LISTEN.format(verb="start_ssl", port=port, more=options)).strip() == "ok"
    )
    set_tls(servers, "on")
    yield port
    set_tls(servers, "off")
    servers.rabbitmqctl("eval", LISTEN.format(verb="stop_tcp", port=port, more=""))


def set_tls(servers: Servers, how: str) -> None:
    home = servers.state / "postgresql"
    for setting, file in (("cert_file", "server.crt"), ("key_file", "server.key")):
        ask(servers, f"ALTER SYSTEM SET ssl_{setting} = '{home / file}'")
    ask(servers, f"ALTER SYSTEM SET ssl = {how}")
    ask(servers, "SELECT pg_reload_conf()")
    eventually(lambda: ask(servers, "SHOW ssl") == [(how,)])


def ask(servers: Servers, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(servers.superuser_dsn())) as connection:
        connection.autocommit = True  # ALTER SYSTEM allows no transaction
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def encrypted(
    environment: dict[str, str], suite_config: dict[str, Any], tls_port: int, ca: Path
) -> dict[str, str]:
    """The servers' environment with what the chart adds to each URI, and the CA where it is here."""
    (gateway, billing) = (variables(name) for name in ("gateway", "billing"))
    parameters = urlsplit(billing["BILLING_DB_URI"]).query
    scheme = urlsplit(gateway["AMQP_URI"]).scheme
    uris = {
        name: f"{uri.replace('127.0.0.1', 'localhost')}?{parameters}"
        for name, uri in environment.items()
        if name.endswith(("_DB_URI", "_DB_OWNER_URI"))
    }
    broker = f"{scheme}://shop:shop@localhost:{tls_port}/"
    trust = dict.fromkeys(TRUST, str(ca / "ca.crt"))
    return {**environment, **uris, **trust, "AMQP_URI": broker}


def variables(name: str) -> dict[str, str]:
    """What a component is given with values/tls.yaml, of what is no secret."""
    (container,) = (
        pod["spec"]["containers"][0] for pod in pods(objects("tls")).values() if component(pod) == name
    )
    return {key: value for key, value in raw(container).items() if isinstance(value, str)}


class AsGiven(Suite):
    """The five services, each with those of the servers' variables that the chart gives it, and no other."""

    def _process(self, name: str) -> Process:
        whole, given = self.environment, variables(name)
        doubtful = {key for key in whole if key in TRUST or key.endswith("_URI")} - given.keys()
        self.environment = {key: value for key, value in whole.items() if key not in doubtful}
        try:
            return super()._process(name)
        finally:
            self.environment = whole


@pytest.fixture(scope="module")
def run(encrypted: dict[str, str]) -> Run:
    return Run(objects("tls"), encrypted, dict.fromkeys(["migrations"], encrypted["AMQP_URI"]))


def test_the_whole_story_goes_well_over_encrypted_connections_alone(
    servers: Servers, encrypted: Mapping[str, str], run: Run, tmp_path: Path
) -> None:
    assert run("migrations", "chassis.migrate").code == 0
    suite = AsGiven(encrypted, servers.ports, tmp_path)
    try:
        suite.start()
        shopper = Shopper(suite.url)
        assert shopper.deposit("10.00").status_code == 201
        assert shopper.ended_order("7.00")["status"] == "paid"
        assert shopper.letters(1)[0]["kind"] == "happiness"
        assert dict(ask(servers, ENCRYPTED)) == dict.fromkeys(WITH_TABLES, True)
        connections = servers.rabbitmqctl("list_connections", "--quiet", "--no-table-headers", "ssl").split()
        assert connections.count("true") == len(connections) > 5
        assert run("audit").code == 0
    finally:
        suite.stop()


@pytest.mark.parametrize("trust", TRUST)
def test_a_server_whose_certificate_another_ca_has_signed_is_refused(
    trust: str, run: Run, tmp_path: Path
) -> None:
    make_certificates(tmp_path, "localhost")
    tried = run("audit", **{trust: str(tmp_path / "ca.crt")})
    assert tried.code == 2
    assert REFUSED in tried.says


def test_a_database_under_another_name_than_its_certificates_is_refused(
    run: Run, encrypted: dict[str, str]
) -> None:
    elsewhere = encrypted["USERS_DB_URI"].replace("localhost", "127.0.0.1")
    tried = run("audit", USERS_DB_URI=elsewhere)
    assert tried.code == 2
    assert "does not match" in tried.says


def test_the_ca_is_mounted_where_the_variables_say_in_all_that_is_the_suites() -> None:
    own = list(pods(of(objects("tls"), "Deployment", "Job", "CronJob")).values())
    for container in (each for pod in own for each in containers(pod)):
        places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert places["ca"] == str(Path(CA_FILE).parent)
        given = raw(container)
        assert {given[name] for name in TRUST if name in given} == {CA_FILE}
        assert ("SSL_CERT_FILE" in given) == ("AMQP_URI" in given)
    for pod in own:
        (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "ca"]
        assert volume["configMap"] == {"name": "our-ca", "items": [{"key": "root.pem", "path": "ca.crt"}]}
