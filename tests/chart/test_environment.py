"""Each container gets the variables that it needs, and none of another service."""

import os
import re
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from kombu.utils.url import parse_url
from nameko.cli.main import setup_yaml_parser
from psycopg2.extensions import parse_dsn
from sqlalchemy import make_url

from chassis.broker import broker_settings
from chassis.db import database_uri
from tests.chart.environment import (
    COMMANDS,
    CONFIG,
    SERVICES,
    WITH_TABLES,
    of_container,
    raw,
    readers,
)
from tests.chart.helm import (
    SETS,
    Object,
    component,
    containers,
    merged,
    objects,
    of,
    pods,
    render,
    user_values,
)

EVERY_SET = pytest.mark.parametrize("name", SETS)
# libpq and OpenSSL read them (see test_tls.py).
TRUST = {"PGSSLROOTCERT", "SSL_CERT_FILE"}
DB_URIS = {f"{service.upper()}_DB_URI" for service in WITH_TABLES}
OWNER_URIS = {f"{service.upper()}_DB_OWNER_URI" for service in WITH_TABLES}
REQUIRED = {
    "gateway": {"AMQP_URI", "TOKEN_SECRET"},
    **{service: {"AMQP_URI", f"{service.upper()}_DB_URI"} for service in WITH_TABLES},
    "migrations": {"AMQP_URI", *DB_URIS, *OWNER_URIS},
}


def suite(found: list[Object]) -> dict[str, Object]:
    """Return the container of each service, and of the migrations, by name."""
    own = {}
    for each in of(found, "Deployment", "Job"):
        if component(each) in REQUIRED:
            (pod,) = pods([each]).values()
            own[component(each)] = pod["spec"]["containers"][0]
    assert own.keys() == REQUIRED.keys()
    return own


def given(name: str, service: str) -> set[str]:
    """Return the variables that the user adds by extraEnv."""
    values = merged(user_values(name))
    places = [
        values,
        values["serviceDefaults"],
        values["services"].get(service, {}),
        values.get(service, {}),
    ]
    return {each["name"] for place in places for each in place.get("extraEnv") or []}


def test_the_readers_of_variables_are_found() -> None:
    found = readers()
    assert found["USERS_DB_URI"] == {"users", "migrations"}
    assert found["USERS_DB_OWNER_URI"] == {"migrations"}
    for variable in (
        "TOKEN_SECRET",
        "TOKEN_SECRET_FILE",
        "GATEWAY_PORT",
        "STOP_DELAY_S",
    ):
        assert found[variable] == {"gateway"}
    assert found["USERS_DB_URI_FILE"] == {"users", "migrations"}
    assert found["CURRENCY"] == {"billing", "notifications", "gateway", "migrations"}
    assert found["AMQP_URI"] == found["LOG_LEVEL"] == {*SERVICES, "migrations"}


@EVERY_SET
def test_every_service_has_its_required_variables(name: str) -> None:
    for service, container in suite(objects(name)).items():
        assert REQUIRED[service] <= raw(container).keys(), service


@EVERY_SET
def test_config_yaml_reads_every_variable_for_this_service(
    name: str,
) -> None:
    for service, container in suite(objects(name)).items():
        values = [value for value in raw(container).values() if isinstance(value, str)]
        # Variables from which others are composed.
        parts = set(re.findall(r"\$\((\w+)\)", "\n".join(values)))
        for variable in raw(container).keys() - parts - given(name, service) - TRUST:
            unused = f"{service} does not read {variable}"
            assert service in readers().get(variable, ()), unused


@EVERY_SET
def test_the_gateway_trusts_the_charts_proxy(name: str) -> None:
    found = objects(name)
    default = 1 if of(found, "Ingress", "HTTPRoute") else 0
    expected = user_values(name).get("trustedProxies", default)
    assert raw(suite(found)["gateway"])["TRUSTED_PROXIES"] == str(expected)


@EVERY_SET
def test_the_parts_of_a_variable_come_before_it(name: str) -> None:
    found = objects(name)
    for pod in pods(found).values():
        for container in containers(pod):
            for variable, value in of_container(container, found).items():
                assert "$(" not in value, variable


@EVERY_SET
def test_config_yaml_can_read_every_value(name: str) -> None:
    found = objects(name)
    for service, container in suite(found).items():
        config = resolved(of_container(container, found))
        assert "127.0.0.1" not in str(config["AMQP_URI"]), service
        for variable in REQUIRED[service]:
            kind, part = variable.partition("_DB_")[::2]
            if part:
                uri = config[f"DB_{part}S"][f"{kind.lower()}:Base"]
                assert "127.0.0.1" not in uri
                assert database_uri(config, f"DB_{part}S", kind.lower()) == uri
        assert broker_settings(config)["AMQP_URI"] == config["AMQP_URI"]


@pytest.mark.parametrize("host", ["2001:db8::1", "::1", "192.0.2.1", "db.example.org"])
def test_external_servers_may_have_an_address_of_either_family(host: str) -> None:
    found = render(
        {
            "postgresql": {"enabled": False},
            "externalPostgresql": {
                "host": host,
                "existingSecret": "theirs",
                "admin": {"existingSecret": "an-admins"},
            },
            "rabbitmq": {"enabled": False},
            "externalRabbitmq": {"host": host, "existingSecret": "theirs"},
        }
    )
    for service, container in suite(found).items():
        config = resolved(of_container(container, found))
        assert parse_url(config["AMQP_URI"])["hostname"] == host
        broker_settings(config)
        for variable in REQUIRED[service] - {"AMQP_URI", "TOKEN_SECRET"}:
            name, part = variable.split("_DB_")
            uri = database_uri(config, f"DB_{part}S", name.lower())
            assert make_url(uri).host == host
    [databases] = pods(of(found, "Job")).values()
    server = raw(databases["spec"]["initContainers"][0])["SERVER"]
    assert parse_dsn(server)["host"] == host


def test_only_migrations_connect_past_a_pooler() -> None:
    """Migrations set timeouts of their session (docs/operations.md, PgBouncer)."""
    pooler, server = ("pooler", 6432), ("2001:db8::1", 5433)
    found = render(
        {
            "postgresql": {"enabled": False},
            "externalPostgresql": {
                "host": pooler[0],
                "port": pooler[1],
                "direct": {"host": server[0], "port": server[1]},
                "existingSecret": "theirs",
                "admin": {"existingSecret": "an-admins"},
            },
        }
    )
    uris = {
        (component(pod), name): make_url(uri)
        for pod in pods(found).values()
        for container in containers(pod)
        for name, uri in raw(container).items()
        if name == "SERVER" or name.endswith(("_DB_URI", "_DB_OWNER_URI"))
    }
    owners = {
        key for key in uris if key[1] == "SERVER" or key[1].endswith("_OWNER_URI")
    }
    assert {name for name, _ in owners} == {"migrations"}
    for key, uri in uris.items():
        assert (uri.host, uri.port) == (server if key in owners else pooler), key
    assert allowed_out(found, server[1]) == {"migrations"}
    assert allowed_out(found, pooler[1]) == {*WITH_TABLES, "audit", "replay"}


def allowed_out(found: list[Object], port: int) -> set[str]:
    """Return the components whose policies allow them to connect to this port."""
    return {
        component(each)
        for each in of(found, "NetworkPolicy")
        for rule in each["spec"].get("egress", [])
        if {"port": port} in rule["ports"]
    }


def test_all_services_have_the_chosen_address_families() -> None:
    chosen = {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]}
    services = of(render({**chosen, "serviceMonitor": {"enabled": True}}), "Service")
    assert len(services) == len(SERVICES) + 2
    for each in services:
        assert chosen.items() <= each["spec"].items()
    # By default, the cluster chooses.
    for each in of(objects("default"), "Service"):
        assert not chosen.keys() & each["spec"].keys()


def test_every_pod_listens_on_all_ipv4_and_ipv6_interfaces() -> None:
    containers_of = suite(objects("default"))
    hosts = {
        (service, variable): raw(containers_of[service])[variable]
        for variable, services in readers().items()
        if variable.endswith("_HOST")
        for service in services - {"migrations"}
    }
    assert hosts.keys() >= {(service, "HEALTH_HOST") for service in SERVICES}
    assert set(hosts.values()) == {"::"}


UNRESTRICTED = {"existingSecret": "theirs", "restrictedUsers": False}
UNRESTRICTED_USERS = {
    "of the chart's broker": {"rabbitmq": UNRESTRICTED},
    "of an external broker": {
        "rabbitmq": {"enabled": False},
        "externalRabbitmq": {"host": "a", **UNRESTRICTED},
    },
}


@EVERY_SET
def test_all_require_a_restricted_user_of_the_broker(
    name: str,
) -> None:
    for service, container in suite(objects(name)).items():
        assert raw(container)["AMQP_USER_RESTRICTED"] == "true", service


@pytest.mark.parametrize(
    "values", UNRESTRICTED_USERS.values(), ids=UNRESTRICTED_USERS.keys()
)
def test_existing_users_may_have_more_permissions(values: dict[str, Any]) -> None:
    for service, container in suite(render(values)).items():
        assert raw(container)["AMQP_USER_RESTRICTED"] == "false", service


def resolved(environment: dict[str, str]) -> dict[str, Any]:
    """Read config.yaml as a process with this environment does."""
    setup_yaml_parser()
    with patch.dict(os.environ, environment, clear=True):
        return yaml.safe_load(CONFIG.read_text())


@EVERY_SET
def test_each_service_has_its_own_user_role_and_database(
    name: str,
) -> None:
    found = objects(name)
    users, roles = {}, {}
    for service, container in suite(found).items():
        environment = of_container(container, found)
        users[service] = parse_url(environment["AMQP_URI"])["userid"]
        if service in WITH_TABLES:
            uri = make_url(environment[f"{service.upper()}_DB_URI"])
            roles[service] = (uri.username, uri.database)
    assert len(set(users.values())) == len(users)
    databases = {database for _, database in roles.values()}
    assert len(set(roles.values())) == len(databases) == len(WITH_TABLES)


@EVERY_SET
def test_migrations_own_the_databases_of_services(name: str) -> None:
    found = objects(name)
    own = {
        service: of_container(container, found)
        for service, container in suite(found).items()
    }
    for service in WITH_TABLES:
        owner = make_url(own["migrations"][f"{service.upper()}_DB_OWNER_URI"])
        grantee = make_url(own["migrations"][f"{service.upper()}_DB_URI"])
        used = make_url(own[service][f"{service.upper()}_DB_URI"])
        assert (owner.host, owner.port) == (used.host, used.port)
        assert owner.database == used.database
        assert grantee.username == used.username != owner.username


@EVERY_SET
def test_a_services_pod_has_only_its_own_passwords(name: str) -> None:
    found = objects(name)
    for service, container in suite(found).items():
        if service == "migrations":
            continue
        assert "envFrom" not in container
        others = [other for other in SERVICES if other != service]
        roles = [*others, *(f"{other}_owner" for other in others)]
        for variable, source in raw(container).items():
            if isinstance(source, dict) and "secretKeyRef" in source:
                key = source["secretKeyRef"]["key"]
                assert not any(
                    re.match(rf"{role}\b|{role}[-_]password", key) for role in roles
                ), variable


BROKER_VARIABLES = {"AMQP_PASSWORD", "AMQP_URI"}
DB_PASSWORDS = {f"{service.upper()}_DB_PASSWORD" for service in WITH_TABLES}
DB_VARIABLES = DB_PASSWORDS | DB_URIS
COMMAND_VARIABLES = {
    "dead": BROKER_VARIABLES,
    "redrive": BROKER_VARIABLES,
    "audit": BROKER_VARIABLES | DB_VARIABLES,
    "replay": BROKER_VARIABLES | DB_VARIABLES,
}


@EVERY_SET
def test_a_command_has_only_the_variables_it_needs(name: str) -> None:
    """It connects to the databases as the services do."""
    found = objects(name)
    jobs = of(found, "CronJob")
    assert {component(each) for each in jobs} == set(COMMANDS)
    services = suite(found)
    for job in jobs:
        (pod,) = pods([job]).values()
        (container,) = containers(pod)
        own = raw(container)
        variables = own.keys() - given(name, "migrations") - TRUST
        assert variables == COMMAND_VARIABLES[component(job)]
        assert own["AMQP_URI"] == raw(services["migrations"])["AMQP_URI"]
        for variable in DB_VARIABLES & own.keys():
            service = variable.partition("_DB_")[0].lower()
            assert own[variable] == raw(services[service])[variable]


@EVERY_SET
def test_secret_values_are_in_secrets_only(name: str) -> None:
    found = objects(name)
    secret: set[str] = set()
    for each in of(found, "Secret"):
        secret.update(each.get("data", {}).values())
        secret.update(each.get("stringData", {}).values())
    others = yaml.safe_dump([each for each in found if each["kind"] != "Secret"])
    for value in secret:
        assert value not in others
