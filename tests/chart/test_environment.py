"""Each service gets the settings that config.yaml reads for it: all it must have, none of another's."""

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

from chassis.amqp import broker_settings
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
TRUST = {
    "PGSSLROOTCERT",
    "SSL_CERT_FILE",
}  # libpq and OpenSSL read them: see test_tls.py
MUST = {
    "gateway": {"AMQP_URI", "TOKEN_SECRET"},
    **{service: {"AMQP_URI", f"{service.upper()}_DB_URI"} for service in WITH_TABLES},
    "migrations": {"AMQP_URI"}
    | {
        f"{service.upper()}_{word}"
        for service in WITH_TABLES
        for word in ("DB_URI", "DB_OWNER_URI")
    },
}


def suite(found: list[Object]) -> dict[str, Object]:
    """The container of each service, and of the migrations, by name."""
    made = of(found, "Deployment", "Job")
    own = {
        component(each): pod
        for each in made
        for pod in pods([each]).values()
        if component(each) in MUST
    }
    assert own.keys() == MUST.keys()
    return {name: pod["spec"]["containers"][0] for name, pod in own.items()}


def given(name: str, service: str) -> set[str]:
    """The variables that the user adds by extraEnv."""
    values = merged(user_values(name))
    places = [
        values,
        values["serviceDefaults"],
        values["services"].get(service, {}),
        values.get(service, {}),
    ]
    return {each["name"] for place in places for each in place.get("extraEnv") or []}


def test_config_yaml_is_understood() -> None:
    found = readers()
    assert found["USERS_DB_URI"] == {"users", "migrations"}
    assert found["USERS_DB_OWNER_URI"] == {"migrations"}
    assert (
        found["TOKEN_SECRET"]
        == found["GATEWAY_PORT"]
        == found["STOP_DELAY_S"]
        == {"gateway"}
    )
    assert found["TOKEN_SECRET_FILE"] == {"gateway"}
    assert found["USERS_DB_URI_FILE"] == {"users", "migrations"}
    assert found["CURRENCY"] == {"billing", "notifications", "gateway", "migrations"}
    assert found["AMQP_URI"] == found["LOG_LEVEL"] == {*SERVICES, "migrations"}


@EVERY_SET
def test_every_service_has_what_it_must_have(name: str) -> None:
    for service, container in suite(objects(name)).items():
        assert MUST[service] <= raw(container).keys(), service


@EVERY_SET
def test_config_yaml_reads_every_variable_that_is_set_and_reads_it_for_this_service(
    name: str,
) -> None:
    for service, container in suite(objects(name)).items():
        values = [value for value in raw(container).values() if isinstance(value, str)]
        parts = {
            part for value in values for part in re.findall(r"\$\((\w+)\)", value)
        }  # of other variables
        for variable in raw(container).keys() - parts - given(name, service) - TRUST:
            assert service in readers().get(variable, ()), (
                f"{service} has no use for {variable}"
            )


@EVERY_SET
def test_the_gateway_trusts_the_proxy_that_the_chart_puts_before_it(name: str) -> None:
    found = objects(name)
    wanted = user_values(name).get(
        "trustedProxies", 1 if of(found, "Ingress", "HTTPRoute") else 0
    )
    assert raw(suite(found)["gateway"])["TRUSTED_PROXIES"] == str(wanted)


@EVERY_SET
def test_what_a_variable_is_made_of_stands_before_it(name: str) -> None:
    found = objects(name)
    for pod in pods(found).values():
        for container in containers(pod):
            for variable, value in of_container(container, found).items():
                assert "$(" not in value, variable


@EVERY_SET
def test_every_value_is_one_that_config_yaml_understands(name: str) -> None:
    found = objects(name)
    for service, container in suite(found).items():
        config = resolved(of_container(container, found))
        assert "127.0.0.1" not in str(config["AMQP_URI"]), service
        for variable in MUST[service]:
            kind, part = variable.partition("_DB_")[::2]
            if part:
                uri = config[f"DB_{part}S"][f"{kind.lower()}:Base"]
                assert "127.0.0.1" not in uri
                assert database_uri(config, f"DB_{part}S", kind.lower()) == uri
        assert broker_settings(config)["AMQP_URI"] == config["AMQP_URI"]


@pytest.mark.parametrize("host", ["2001:db8::1", "::1", "192.0.2.1", "db.example.org"])
def test_servers_elsewhere_may_have_an_address_of_either_family(host: str) -> None:
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
        for variable in MUST[service] - {"AMQP_URI", "TOKEN_SECRET"}:
            name, part = variable.split("_DB_")
            assert (
                make_url(database_uri(config, f"DB_{part}S", name.lower())).host == host
            )
    [databases] = [
        pod for made_by, pod in pods(found).items() if made_by.startswith("Job/")
    ]
    server = raw(databases["spec"]["initContainers"][0])["SERVER"]
    assert parse_dsn(server)["host"] == host


def test_the_migrations_pass_a_pooler_by_and_nobody_else_does() -> None:
    """docs/operations.md, PgBouncer: a migration sets time limits of its session."""
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
    assert {who for who, _ in owners} == {"migrations"}
    for key, uri in uris.items():
        assert (uri.host, uri.port) == (server if key in owners else pooler), key
    assert let_out(found, server[1]) == {"migrations"}
    assert let_out(found, pooler[1]) == {*WITH_TABLES, "audit", "replay"}


def let_out(found: list[Object], port: int) -> set[str]:
    """The components whose policies let them ask a server at this port."""
    return {
        component(each)
        for each in of(found, "NetworkPolicy")
        for rule in each["spec"].get("egress", [])
        if {"port": port} in rule["ports"]
    }


def test_all_services_have_the_address_families_that_are_chosen() -> None:
    chosen = {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]}
    services = of(render({**chosen, "serviceMonitor": {"enabled": True}}), "Service")
    assert len(services) == len(SERVICES) + 2
    for each in services:
        assert chosen.items() <= each["spec"].items()
    for each in of(objects("default"), "Service"):  # the cluster chooses
        assert not chosen.keys() & each["spec"].keys()


def test_every_pod_listens_on_all_interfaces_of_both_families() -> None:
    containers_of = suite(objects("default"))
    hosts = {
        (service, variable): raw(containers_of[service])[variable]
        for variable, services in readers().items()
        if variable.endswith("_HOST")
        for service in services - {"migrations"}
    }
    assert hosts.keys() >= {(service, "HEALTH_HOST") for service in SERVICES}
    assert set(hosts.values()) == {"::"}


WITH_MORE_RIGHTS = {
    "of the chart's broker": {
        "rabbitmq": {"existingSecret": "theirs", "restrictedUsers": False}
    },
    "elsewhere": {
        "rabbitmq": {"enabled": False},
        "externalRabbitmq": {
            "host": "a",
            "existingSecret": "theirs",
            "restrictedUsers": False,
        },
    },
}


@EVERY_SET
def test_all_insist_on_a_user_of_the_broker_with_its_own_rights_alone(
    name: str,
) -> None:
    for service, container in suite(objects(name)).items():
        assert raw(container)["AMQP_USER_RESTRICTED"] == "true", service


@pytest.mark.parametrize(
    "values", WITH_MORE_RIGHTS.values(), ids=WITH_MORE_RIGHTS.keys()
)
def test_users_that_others_made_may_have_more_rights(values: dict[str, Any]) -> None:
    for service, container in suite(render(values)).items():
        assert raw(container)["AMQP_USER_RESTRICTED"] == "false", service


def resolved(environment: dict[str, str]) -> dict[str, Any]:
    """config.yaml as a process with this environment reads it."""
    setup_yaml_parser()
    with patch.dict(os.environ, environment, clear=True):
        return yaml.safe_load(CONFIG.read_text())


@EVERY_SET
def test_each_service_has_its_own_user_on_the_broker_and_its_own_role_in_its_own_database(
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
    assert (
        len(set(roles.values()))
        == len({database for _, database in roles.values()})
        == len(WITH_TABLES)
    )


@EVERY_SET
def test_migrations_own_what_services_use(name: str) -> None:
    found = objects(name)
    own = {
        service: of_container(container, found)
        for service, container in suite(found).items()
    }
    for service in WITH_TABLES:
        owner = make_url(own["migrations"][f"{service.upper()}_DB_OWNER_URI"])
        grantee = make_url(own["migrations"][f"{service.upper()}_DB_URI"])
        used = make_url(own[service][f"{service.upper()}_DB_URI"])
        assert (owner.host, owner.port, owner.database) == (
            used.host,
            used.port,
            used.database,
        )
        assert grantee.username == used.username != owner.username


@EVERY_SET
def test_no_password_of_anybody_else_is_in_a_services_pod(name: str) -> None:
    found = objects(name)
    for service, container in suite(found).items():
        if service == "migrations":
            continue
        assert "envFrom" not in container
        foreign = {
            word
            for other in SERVICES
            if other != service
            for word in (other, f"{other}_owner")
        }
        for variable, source in raw(container).items():
            if isinstance(source, dict) and "secretKeyRef" in source:
                key = source["secretKeyRef"]["key"]
                assert not any(
                    re.match(rf"{word}\b|{word}[-_]password", key) for word in foreign
                ), variable


OF_BROKER = {"AMQP_PASSWORD", "AMQP_URI"}
OF_DATABASES = {
    f"{service.upper()}_DB_{word}"
    for service in WITH_TABLES
    for word in ("PASSWORD", "URI")
}
OF_COMMANDS = {
    "dead": OF_BROKER,
    "redrive": OF_BROKER,
    "audit": OF_BROKER | OF_DATABASES,
    "replay": OF_BROKER | OF_DATABASES,
}


@EVERY_SET
def test_a_command_has_what_it_needs_and_no_more(name: str) -> None:
    found = objects(name)
    made = {
        component(each): pod
        for each in of(found, "CronJob")
        for pod in pods([each]).values()
    }
    assert made.keys() == set(COMMANDS)
    services = suite(found)
    for command, pod in made.items():
        (container,) = containers(pod)
        own = raw(container)
        assert own.keys() - given(name, "migrations") - TRUST == OF_COMMANDS[command]
        assert own["AMQP_URI"] == raw(services["migrations"])["AMQP_URI"]
        for variable in OF_DATABASES & own.keys():
            service = variable.partition("_DB_")[0].lower()
            assert own[variable] == raw(services[service])[variable], (
                "as the service itself"
            )


@EVERY_SET
def test_no_secret_stands_in_the_open(name: str) -> None:
    """Neither in an object that is no Secret, nor generated twice."""
    found = objects(name)
    secret = {
        value
        for each in of(found, "Secret")
        for key, value in {**each.get("data", {}), **each.get("stringData", {})}.items()
    }
    others = yaml.safe_dump([each for each in found if each["kind"] != "Secret"])
    for value in secret:
        assert value not in others
