"""A CA of one's own, as the chart has it trusted, and real servers whose certificates it has signed."""

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
ENCRYPTED = """\
SELECT usename, bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
WHERE usename <> 'postgres' AND backend_start > '{since}' GROUP BY usename
"""


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the CA that all of this trusts."""
    folder = tmp_path_factory.mktemp("ca")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def brokers(servers: Servers, ca: Path) -> Iterator[dict[str, int]]:
    """PostgreSQL is encrypted now, and so is RabbitMQ, at two more ports: by whose certificate each has."""
    for name in ("rabbitmq", "postgresql"):
        give_certificates(servers, ca, name)
    free = free_ports()
    ports = {"here": free["rabbitmq"], "elsewhere": free["erlang"]}
    with encrypted_broker(servers, ports):
        set_tls(servers, "on")
        yield ports
        set_tls(servers, "off")


def set_tls(servers: Servers, how: str) -> None:
    home = servers.state / "postgresql"
    for setting, file in (("cert_file", "here.crt"), ("key_file", "here.key")):
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
    environment: dict[str, str],
    suite_config: dict[str, Any],
    brokers: dict[str, int],
    ca: Path,
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
    user = urlsplit(environment["AMQP_URI"]).netloc.partition("@")[0]
    broker = f"{scheme}://{user}@localhost:{brokers['here']}/"
    trust = dict.fromkeys(TRUST, str(ca / "ca.crt"))
    return {**environment, **uris, **trust, "AMQP_URI": broker}


def variables(name: str) -> dict[str, str]:
    """What a component is given with values/tls.yaml, of what is no secret."""
    (container,) = (
        pod["spec"]["containers"][0]
        for pod in pods(objects("tls")).values()
        if component(pod) == name
    )
    return {
        key: value for key, value in raw(container).items() if isinstance(value, str)
    }


class AsGiven(Suite):
    """The five services, each with those of the servers' variables that the chart gives it, and no other."""

    def _process(self, name: str) -> Process:
        whole, given = self.environment, variables(name)
        doubtful = {
            key for key in whole if key in TRUST or key.endswith("_URI")
        } - given.keys()
        self.environment = {
            key: value for key, value in whole.items() if key not in doubtful
        }
        try:
            return super()._process(name)
        finally:
            self.environment = whole


@pytest.fixture(scope="module")
def run(encrypted: dict[str, str]) -> Run:
    return Run(
        objects("tls"), encrypted, dict.fromkeys(["migrations"], encrypted["AMQP_URI"])
    )


def test_the_whole_story_goes_well_over_encrypted_connections_alone(
    servers: Servers, encrypted: Mapping[str, str], run: Run, tmp_path: Path
) -> None:
    assert run("migrations", "chassis.migrate").code == 0
    before = broker_connections(servers)
    [(since,)] = ask(
        servers, "SELECT now()::text"
    )  # other tests may have left sessions behind
    with AsGiven(encrypted, servers.ports, tmp_path).running() as suite:
        shopper = Shopper(suite.url)
        assert shopper.deposit("10.00").status_code == 201
        assert shopper.ended_order("7.00")["status"] == "paid"
        assert shopper.letters(1)[0]["kind"] == "happiness"
        assert dict(ask(servers, ENCRYPTED.format(since=since))) == dict.fromkeys(
            WITH_TABLES, True
        )
        new = broker_connections(servers) - before
        assert {ssl for _, ssl in new} == {"true"}
        assert len(new) > 5
        assert run("audit").code == 0


def broker_connections(servers: Servers) -> set[tuple[str, str]]:
    """Each with whether it is encrypted; other tests may have left some behind."""
    told = servers.rabbitmqctl(
        "list_connections", "--quiet", "--no-table-headers", "pid", "ssl"
    )
    return {(pid, ssl) for pid, ssl in map(str.split, told.splitlines())}


@pytest.mark.parametrize("trust", TRUST)
def test_a_server_whose_certificate_another_ca_has_signed_is_refused(
    trust: str, run: Run, tmp_path: Path
) -> None:
    make_certificates(tmp_path)
    refused(
        run("audit", **{trust: str(tmp_path / "ca.crt")}), "certificate verify failed"
    )


def test_a_database_whose_certificate_is_for_another_name_is_refused(
    run: Run, encrypted: dict[str, str]
) -> None:
    elsewhere = encrypted["USERS_DB_URI"].replace("localhost", "elsewhere.example.org")
    refused(
        run("audit", USERS_DB_URI=f"{elsewhere}&hostaddr=127.0.0.1"), "does not match"
    )


@pytest.mark.filterwarnings(
    "ignore:please use dns.resolver:DeprecationWarning"
)  # eventlet does
def test_a_database_whose_address_a_service_looks_up_is_refused_for_another_name(
    encrypted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = encrypted["USERS_DB_URI"].replace("localhost", "elsewhere.example.org")
    engine = create_engine(
        uri, connect_args={"sslrootcert": encrypted["PGSSLROOTCERT"]}
    )
    event.listen(engine, "do_connect", lookups.connect)
    with name_server(monkeypatch) as names:
        names.addresses["elsewhere.example.org"] = [
            "127.0.0.1"
        ]  # which the certificate names too
        with pytest.raises(OperationalError, match="does not match host name"):
            engine.connect()


def test_a_broker_whose_certificate_is_for_another_name_is_refused(
    run: Run, encrypted: dict[str, str], brokers: dict[str, int]
) -> None:
    elsewhere = encrypted["AMQP_URI"].replace(
        str(brokers["here"]), str(brokers["elsewhere"])
    )
    refused(
        run("audit", AMQP_URI=elsewhere), "certificate verify failed", "not valid for"
    )


def refused(tried: Command, *words: str) -> None:
    assert tried.code == 2, tried.says
    assert all(word in tried.says for word in words), tried.says


def test_the_ca_is_mounted_where_the_variables_say_in_all_that_is_the_suites() -> None:
    own = list(pods(of(objects("tls"), "Deployment", "Job", "CronJob")).values())
    for container in (each for pod in own for each in containers(pod)):
        places = {
            mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]
        }
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
