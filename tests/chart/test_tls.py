"""Encrypted connections to real servers, with certificates of a CA that the chart trusts."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError

from chassis import lookups
from chassis.tests.names import name_server
from chassis.tests.tls import encrypted_broker, give_certificates, make_certificates
from conftest import eventually
from dev.ports import free_ports
from dev.servers import Servers
from tests.chart.commands import Command, Run
from tests.chart.environment import WITH_TABLES, raw
from tests.chart.helm import component, containers, objects, of, pods
from tests.system.processes import Process, Suite
from tests.system.shopper import Shopper

CA_FILE = "/etc/shop/ca/ca.crt"
TRUST = ("PGSSLROOTCERT", "SSL_CERT_FILE")
# Whether all sessions of each user that began after `since` are encrypted.
ENCRYPTED = """
    SELECT usename, bool_and(ssl)
    FROM pg_stat_ssl
    JOIN pg_stat_activity USING (pid)
    WHERE usename <> 'postgres'
        AND backend_start > '{since}'
    GROUP BY usename
"""


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the trusted CA."""
    folder = tmp_path_factory.mktemp("ca")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def brokers(servers: Servers, ca: Path) -> Iterator[dict[str, int]]:
    """Switch TLS on in PostgreSQL, and at two more ports in RabbitMQ.

    Return RabbitMQ's ports by the name of their certificate.
    """
    for name in ("rabbitmq", "postgresql"):
        give_certificates(servers, ca, name)
    free = free_ports()
    ports = {"here": free["rabbitmq"], "elsewhere": free["erlang"]}
    with encrypted_broker(servers, ports):
        set_tls(servers, "on")
        yield ports
        set_tls(servers, "off")


def set_tls(servers: Servers, state: str) -> None:
    home = servers.state / "postgresql"
    for setting, file in (("cert_file", "here.crt"), ("key_file", "here.key")):
        query(servers, f"ALTER SYSTEM SET ssl_{setting} = '{home / file}'")
    query(servers, f"ALTER SYSTEM SET ssl = {state}")
    query(servers, "SELECT pg_reload_conf()")
    eventually(lambda: query(servers, "SHOW ssl") == [(state,)])


def query(servers: Servers, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(servers.superuser_dsn())) as connection:
        # ALTER SYSTEM allows no transaction.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def encrypted(
    environment: dict[str, str],
    suite_config: dict[str, Any],
    brokers: dict[str, int],
    ca: Path,
) -> dict[str, str]:
    """Return the servers' environment with the chart's parameters of URIs, and the CA."""
    (gateway, billing) = (variables(name) for name in ("gateway", "billing"))
    parameters = urlsplit(billing["BILLING_DB_URI"]).query
    scheme = urlsplit(gateway["AMQP_URI"]).scheme
    uris = {
        name: f"{uri.replace('127.0.0.1', 'localhost')}?{parameters}"
        for name, uri in environment.items()
        if name.endswith(("_DB_URI", "_DB_OWNER_URI"))
    }
    user = urlsplit(environment["AMQP_URI"]).netloc.partition("@")[0]
    broker = f"{scheme}://{user}@localhost:{brokers['here']}/"
    trust = dict.fromkeys(TRUST, str(ca / "ca.crt"))
    return {**environment, **uris, **trust, "AMQP_URI": broker}


def variables(name: str) -> dict[str, str]:
    """Return the variables of a component with values/tls.yaml, without secrets."""
    made = pods(objects("tls")).values()
    (pod,) = [each for each in made if component(each) == name]
    found = raw(pod["spec"]["containers"][0]).items()
    return {key: value for key, value in found if isinstance(value, str)}


class OnlyChartVariables(Suite):
    """The five services, each with only the URIs and CA files that the chart gives it."""

    def _process(self, name: str) -> Process:
        whole, given = self.environment, variables(name)
        servers = {key for key in whole if key in TRUST or key.endswith("_URI")}
        removed = servers - given.keys()
        self.environment = {
            key: value for key, value in whole.items() if key not in removed
        }
        try:
            return super()._process(name)
        finally:
            self.environment = whole


@pytest.fixture(scope="module")
def run(encrypted: dict[str, str]) -> Run:
    uris = {"migrations": encrypted["AMQP_URI"]}
    return Run(objects("tls"), encrypted, uris)


def test_the_suite_uses_only_encrypted_connections(
    servers: Servers, encrypted: Mapping[str, str], run: Run, tmp_path: Path
) -> None:
    assert run("migrations", "chassis.migrate").code == 0
    before = broker_connections(servers)
    # Other tests may have left sessions.
    [(since,)] = query(servers, "SELECT now()::text")
    with OnlyChartVariables(encrypted, servers.ports, tmp_path).running() as suite:
        shopper = Shopper(suite.url)
        assert shopper.deposit("10.00").status_code == 201
        assert shopper.ended_order("7.00")["status"] == "paid"
        assert shopper.letters(1)[0]["kind"] == "happiness"
        sessions = dict(query(servers, ENCRYPTED.format(since=since)))
        assert sessions == dict.fromkeys(WITH_TABLES, True)
        new = broker_connections(servers) - before
        assert {ssl for _, ssl in new} == {"true"}
        assert len(new) > 5
        assert run("audit").code == 0


def broker_connections(servers: Servers) -> set[tuple[str, str]]:
    """Return the process of each connection, and whether it is encrypted.

    Other tests may have left connections.
    """
    options = ("--quiet", "--no-table-headers", "pid", "ssl")
    listed = servers.rabbitmqctl("list_connections", *options)
    return {(pid, ssl) for pid, ssl in map(str.split, listed.splitlines())}


@pytest.mark.parametrize("trust", TRUST)
def test_a_certificate_of_another_ca_is_refused(
    trust: str, run: Run, tmp_path: Path
) -> None:
    make_certificates(tmp_path)
    audit = run("audit", **{trust: str(tmp_path / "ca.crt")})
    assert_refused(audit, "certificate verify failed")


def test_a_database_certificate_for_another_name_is_refused(
    run: Run, encrypted: dict[str, str]
) -> None:
    elsewhere = encrypted["USERS_DB_URI"].replace("localhost", "elsewhere.example.org")
    audit = run("audit", USERS_DB_URI=f"{elsewhere}&hostaddr=127.0.0.1")
    assert_refused(audit, "does not match")


# eventlet uses the deprecated function.
@pytest.mark.filterwarnings("ignore:please use dns.resolver:DeprecationWarning")
def test_a_name_that_a_service_resolves_is_compared_with_the_certificate(
    encrypted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = encrypted["USERS_DB_URI"].replace("localhost", "elsewhere.example.org")
    engine = create_engine(
        uri, connect_args={"sslrootcert": encrypted["PGSSLROOTCERT"]}
    )
    event.listen(engine, "do_connect", lookups.connect)
    with name_server(monkeypatch) as names:
        # The certificate is for this address, too.
        names.addresses["elsewhere.example.org"] = ["127.0.0.1"]
        with pytest.raises(OperationalError, match="does not match host name"):
            engine.connect()


def test_a_broker_certificate_for_another_name_is_refused(
    run: Run, encrypted: dict[str, str], brokers: dict[str, int]
) -> None:
    here, elsewhere = str(brokers["here"]), str(brokers["elsewhere"])
    audit = run("audit", AMQP_URI=encrypted["AMQP_URI"].replace(here, elsewhere))
    assert_refused(audit, "certificate verify failed", "not valid for")


def assert_refused(command: Command, *words: str) -> None:
    assert command.code == 2, command.output
    assert all(word in command.output for word in words), command.output


def test_the_ca_is_mounted_at_the_path_in_the_variables() -> None:
    own = list(pods(of(objects("tls"), "Deployment", "Job", "CronJob")).values())
    for container in (each for pod in own for each in containers(pod)):
        mounts = container["volumeMounts"]
        places = {mount["name"]: mount["mountPath"] for mount in mounts}
        assert places["ca"] == str(Path(CA_FILE).parent)
        given = raw(container)
        assert {given[name] for name in TRUST if name in given} == {CA_FILE}
        assert ("SSL_CERT_FILE" in given) == ("AMQP_URI" in given)
    for pod in own:
        (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "ca"]
        assert volume["configMap"] == {
            "name": "our-ca",
            "items": [{"key": "root.pem", "path": "ca.crt"}],
        }
