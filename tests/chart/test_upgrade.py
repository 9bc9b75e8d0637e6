"""helm install and helm upgrade, against the fake API server in api.py."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.api import Api, serving
from tests.chart.helm import (
    CHART,
    FILES,
    NAMESPACE,
    NEWEST,
    RELEASE,
    SETS,
    VERSIONS,
    HelmError,
    Object,
    helm,
    name_of,
    parse,
    values_of,
)

BOTH = pytest.mark.parametrize("version", VERSIONS)
OWN_SECRETS = {"shop-gateway", "shop-postgresql", "shop-rabbitmq"}
# The prefix of Secrets in which helm records releases.
RELEASE_RECORD = "sh.helm.release.v1."


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as started:
        yield started


def install(api: Api, version: str, *arguments: str | Path) -> str:
    return run(api, version, "install", *arguments)


def upgrade(api: Api, version: str, *arguments: str | Path) -> str:
    api.changes.clear()
    return run(api, version, "upgrade", *arguments)


def run(api: Api, version: str, verb: str, *arguments: str | Path) -> str:
    """Run helm and return its output. The fake has no OpenAPI document to validate by."""
    options = (*server(api), "--disable-openapi-validation")
    return helm(version, verb, RELEASE, CHART, *options, *arguments)


def server(api: Api) -> list[str]:
    """Return the arguments of helm that choose the namespace and the server."""
    namespace = ["--namespace", NAMESPACE]
    return [*namespace, "--kube-apiserver", api.url, "--kube-token", "none"]


def secrets(api: Api) -> dict[str, Object]:
    return {
        name: each["data"]
        for name, each in api.of("Secret").items()
        if not name.startswith(RELEASE_RECORD)
    }


def changed(api: Api, kind: str) -> list[tuple[str, str, Any]]:
    """Return the requested changes to objects of a kind, without helm's own records.

    The kind is in the plural, as in paths.
    """
    return [
        each
        for each in api.changes
        if each[1].split("/")[-2] == kind and RELEASE_RECORD not in each[1]
    ]


@BOTH
@pytest.mark.parametrize("name", SETS)
def test_every_set_of_values_can_be_installed(
    api: Api, name: str, version: str
) -> None:
    output = install(api, version, *values_of(name))
    assert "STATUS: deployed" in output
    assert len(api.of("Deployment")) == 5
    assert len(api.of("CronJob")) == 4
    assert ("volume together" in output) == keeps_database(api)


def keeps_database(api: Api) -> bool:
    """Return whether a volume outlives the release, with its password in a Secret."""
    kept = {
        name
        for name, each in api.of("StatefulSet").items()
        if "volumeClaimTemplates" in each["spec"]
    }
    return any(name.endswith("-postgresql") for name in kept & api.of("Secret").keys())


@BOTH
def test_the_notes_contain_the_address_and_the_next_steps(
    api: Api, version: str
) -> None:
    notes = install(api, version).partition("NOTES:")[2]
    assert "http://arch.homework/ " in notes
    assert "http://127.0.0.1:8000/\n" in notes
    assert "helm test shop --namespace nameko-07" in notes
    (job,) = api.of("Job")
    assert f"job/{job} " in notes
    # The user chooses a new name each time.
    assert "create job $JOB --from=cronjob/shop-audit\n" in notes
    assert "shop-audit" in api.of("CronJob")


@BOTH
def test_the_notes_contain_the_users_host(api: Api, version: str) -> None:
    output = install(api, version, "--values", FILES["names"])
    assert "http://shop.example.org/ " in output


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        ("/users,/page,/docs", "/"),
        ("/", "/"),
        ("/users,/docs", "/docs"),
        ("/users,/orders", "/users"),
    ],
)
def test_the_notes_contain_a_public_path(api: Api, paths: str, named: str) -> None:
    """It is the same by the Ingress, by an HTTPRoute and by a forwarded port."""
    values = (
        f"publicPaths={{{paths}}}",
        "httpRoute.enabled=true",
        "httpRoute.parentRefs[0].name=public",
        "httpRoute.hostnames[0]=by-gateway",
        "ingress.host=by-ingress",
    )
    output = install(api, NEWEST, "--set", ",".join(values))
    for host in ("by-gateway", "by-ingress", "127.0.0.1:8000"):
        assert re.findall(rf"http://{host}(\S*)", output) == [named]


def test_the_notes_name_the_secret_of_a_kept_volume(api: Api) -> None:
    note = "Keep the Secret shop-postgresql and PostgreSQL's volume together"
    assert note in install(api, NEWEST)
    own_secret = "postgresql.existingSecret=theirs"
    assert "volume together" not in upgrade(api, NEWEST, "--set", own_secret)


TEN_REPLICAS = "serviceDefaults.replicas=10"


@BOTH
def test_the_notes_warn_of_too_many_connections(api: Api, version: str) -> None:
    assert "WARNING: during" not in install(api, version)
    assert "may be 44 replicas" in upgrade(api, version, "--set", TEN_REPLICAS)
    more = f"{TEN_REPLICAS},postgresql.maxConnections=1100"
    assert "WARNING: during" not in upgrade(api, version, "--set", more)


@BOTH
def test_the_notes_count_connections_by_the_pool_size(api: Api, version: str) -> None:
    """The warning disappears after the change that it recommends."""
    output = install(api, version, "--set", TEN_REPLICAS)
    assert "up to 1056 connections" in output
    smaller = ("--set-string", "extraEnv[0].name=DB_POOL_SIZE,extraEnv[0].value=4")
    assert "WARNING: during" not in upgrade(
        api, version, "--set", TEN_REPLICAS, *smaller
    )


@BOTH
def test_secrets_are_kept_over_an_upgrade(api: Api, version: str) -> None:
    install(api, version)
    before = secrets(api)
    assert before.keys() == OWN_SECRETS
    upgrade(api, version, "--set", "logLevel=DEBUG")
    upgrade(api, version)
    assert secrets(api) == before
    for _, _, patch in changed(api, "secrets"):
        assert "data" not in patch or patch["data"] in before.values()


@BOTH
def test_secrets_are_kept_over_uninstall_and_a_new_install(
    api: Api, version: str
) -> None:
    install(api, version)
    before = secrets(api)
    helm(version, "uninstall", RELEASE, *server(api))
    assert secrets(api) == before
    install(api, version)
    assert secrets(api) == before


@BOTH
def test_secrets_are_kept_if_existingsecret_names_them_later(
    api: Api, version: str
) -> None:
    install(api, version)
    before = secrets(api)
    names = (
        "postgresql.existingSecret=shop-postgresql",
        "rabbitmq.existingSecret=shop-rabbitmq",
        "tokenSecret.existingSecret=shop-gateway",
    )
    upgrade(api, version, "--set", ",".join(names))
    assert secrets(api) == before


@BOTH
@pytest.mark.parametrize("key", ["users-password", "operator-password"])
def test_a_missing_password_is_created_and_others_are_kept(
    api: Api, version: str, key: str
) -> None:
    """Earlier versions had no operator."""
    install(api, version)
    path = next(path for path in api.objects if path.endswith("/secrets/shop-rabbitmq"))
    before = dict(api.objects[path]["data"])
    del api.objects[path]["data"][key]
    upgrade(api, version)
    ((_, _, patch),) = [each for each in changed(api, "secrets") if each[1] == path]
    kept = before.keys() - {key, "definitions.json"}
    assert all(patch["data"].get(each, before[each]) == before[each] for each in kept)
    assert len(base64.b64decode(patch["data"][key])) >= 32


@BOTH
def test_the_readmes_command_updates_the_users_own_secrets(
    api: Api, version: str
) -> None:
    """It keeps the passwords, adds one for a new user, and only reads the cluster."""
    install(api, version)
    before = secrets(api)
    users = {"operator-password", "definitions.json"}
    api.of("Secret")["shop-rabbitmq"]["data"] = {
        key: value for key, value in before["shop-rabbitmq"].items() if key not in users
    }
    api.changes.clear()
    readme = (CHART / "README.md").read_text()
    arguments = "--show-only templates/secrets.yaml --dry-run=server"
    command = f"helm template shop charts/shop --namespace nameko-07 {arguments} >"
    assert command in readme
    rendered = parse(run(api, version, "template", *arguments.split()))
    made = {name_of(each): each["data"] for each in rendered}
    assert api.changes == []
    assert made.keys() == before.keys()
    for name, data in made.items():
        assert data.keys() == before[name].keys()
        kept = data.keys() - (users if name == "shop-rabbitmq" else set())
        assert all(data[key] == before[name][key] for key in kept)


@BOTH
def test_two_installations_share_no_password(version: str) -> None:
    seen: list[set[str]] = []
    for _ in range(2):
        with serving() as api:
            install(api, version)
            contents = list(secrets(api).values())
            seen.append({value for data in contents for value in data.values()})
    assert not seen[0] & seen[1]
    assert len(seen[0]) == sum(len(data) for data in contents)


@BOTH
def test_every_revision_has_its_own_job(api: Api, version: str) -> None:
    install(api, version)
    assert [job.rpartition("-")[0] for job in api.of("Job")] == ["shop-migrations-1"]
    upgrade(api, version)
    assert [job.rpartition("-")[0] for job in api.of("Job")] == ["shop-migrations-2"]
    assert "job/shop-migrations-3-" in upgrade(api, version)


@BOTH
def test_an_upgrade_changes_no_immutable_field(api: Api, version: str) -> None:
    """Images, labels and settings of pods change. Selectors and claims do not."""
    install(api, version)
    before = {kind: api.of(kind) for kind in ("Deployment", "StatefulSet")}
    settings = (
        "image.tag=9.9.9",
        "commonLabels.team=a",
        "postgresql.image.tag=18.1",
        "rabbitmq.image.tag=4.3",
        "nodeSelector.disk=ssd",
        "serviceDefaults.replicas=3",
        "podAnnotations.a=b",
    )
    upgrade(api, version, "--set", ",".join(settings))
    assert changed(api, "deployments")
    immutable = {
        "Deployment": {"selector"},
        "StatefulSet": {"selector", "serviceName", "volumeClaimTemplates"},
    }
    for _, path, patch in changed(api, "deployments") + changed(api, "statefulsets"):
        kind = "Deployment" if "/deployments/" in path else "StatefulSet"
        old = before[kind][path.rpartition("/")[2]]["spec"]
        for key in immutable[kind] & patch["spec"].keys():
            assert patch["spec"][key] == old[key], f"{path}: {key}"


@BOTH
def test_an_upgrade_with_the_same_values_restarts_nothing(
    api: Api, version: str
) -> None:
    install(api, version)
    before = {kind: api.of(kind) for kind in ("Deployment", "StatefulSet")}
    upgrade(api, version)
    for _, path, patch in changed(api, "deployments") + changed(api, "statefulsets"):
        kind = "Deployment" if "/deployments/" in path else "StatefulSet"
        old = before[kind][path.rpartition("/")[2]]["spec"]["template"]
        assert patch.get("spec", {}).get("template", old) == old, path


@BOTH
def test_wrong_values_install_nothing(api: Api, version: str) -> None:
    with pytest.raises(HelmError, match="currency"):
        install(api, version, "--set", "currency=Euro")
    assert not api.changes


def test_the_fake_records_changes(api: Api) -> None:
    version = next(iter(VERSIONS))
    install(api, version)
    upgrade(api, version, "--set", "logLevel=DEBUG")
    assert "DEBUG" in yaml.safe_dump(changed(api, "deployments"))
