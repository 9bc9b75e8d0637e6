"""helm installs and upgrades for real, against an API server that stores what it is given (api.py)."""

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
GENERATED = "sh.helm.release.v1."  # helm's own Secrets


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
    """What helm prints; the server has no OpenAPI to validate by."""
    where = (
        "--namespace",
        NAMESPACE,
        "--kube-apiserver",
        api.url,
        "--kube-token",
        "none",
    )
    return helm(
        version,
        verb,
        RELEASE,
        CHART,
        *where,
        "--disable-openapi-validation",
        *arguments,
    )


def secrets(api: Api) -> dict[str, Object]:
    return {
        name: each["data"]
        for name, each in api.of("Secret").items()
        if not name.startswith(GENERATED)
    }


def changed(api: Api, kind: str) -> list[tuple[str, str, Any]]:
    """What was asked to change objects of a kind (plural, as in paths), without helm's own records."""
    return [
        each
        for each in api.changes
        if each[1].split("/")[-2] == kind and GENERATED not in each[1]
    ]


@BOTH
@pytest.mark.parametrize("name", SETS)
def test_it_is_installed_with_every_set_of_values(
    api: Api, name: str, version: str
) -> None:
    said = install(api, version, *values_of(name))
    assert "STATUS: deployed" in said
    assert len(api.of("Deployment")) == 5
    assert len(api.of("CronJob")) == 4
    assert ("volume together" in said) == locks_data(api)


def locks_data(api: Api) -> bool:
    """Whether a Secret of the chart's own opens databases that outlive the release."""
    kept = {
        name
        for name, each in api.of("StatefulSet").items()
        if "volumeClaimTemplates" in each["spec"]
    }
    return any(name.endswith("-postgresql") for name in kept & api.of("Secret").keys())


@BOTH
def test_the_notes_say_where_it_is_and_what_to_do_next(api: Api, version: str) -> None:
    said = install(api, version).partition("NOTES:")[2]
    assert "http://arch.homework/docs " in said
    assert "http://127.0.0.1:8000/docs\n" in said
    assert "helm test shop --namespace nameko-07" in said
    (job,) = api.of("Job")
    assert f"job/{job} " in said
    assert (
        "create job $JOB --from=cronjob/shop-audit\n" in said
    )  # each time under another name
    assert "shop-audit" in api.of("CronJob")


@BOTH
def test_the_notes_name_a_host_of_ones_own(api: Api, version: str) -> None:
    assert "http://shop.example.org/docs " in install(
        api, version, "--values", FILES["names"]
    )


@pytest.mark.parametrize(
    ("paths", "named"),
    [("/users,/docs", "/docs"), ("/", "/docs"), ("/users,/orders", "/users")],
)
def test_the_notes_name_a_path_that_is_let_in(api: Api, paths: str, named: str) -> None:
    """By the Ingress, by an HTTPRoute, and the same by a port that is forwarded."""
    values = (
        f"publicPaths={{{paths}}}",
        "httpRoute.enabled=true",
        "httpRoute.parentRefs[0].name=public",
    )
    hosts = ("httpRoute.hostnames[0]=by-gateway", "ingress.host=by-ingress")
    said = install(api, NEWEST, "--set", ",".join((*values, *hosts)))
    for host in ("by-gateway", "by-ingress", "127.0.0.1:8000"):
        assert re.findall(rf"http://{host}(\S*)", said) == [named]


def test_the_notes_say_which_secret_opens_the_kept_volume(api: Api) -> None:
    note = "Keep the Secret shop-postgresql and PostgreSQL's volume together"
    assert note in install(api, NEWEST)
    assert "volume together" not in upgrade(
        api, NEWEST, "--set", "postgresql.existingSecret=theirs"
    )


@BOTH
def test_the_notes_tell_of_more_connections_than_the_database_takes(
    api: Api, version: str
) -> None:
    assert "MIND" not in install(api, version)
    assert "may be 44 copies" in upgrade(
        api, version, "--set", "serviceDefaults.replicas=10"
    )
    assert "MIND" not in upgrade(
        api,
        version,
        "--set",
        "serviceDefaults.replicas=10,postgresql.maxConnections=1100",
    )


@BOTH
def test_the_notes_count_connections_by_the_pools_that_are_set(
    api: Api, version: str
) -> None:
    """Who does what the notes ask for is not asked again."""
    assert "up to 1056 connections" in install(
        api, version, "--set", "serviceDefaults.replicas=10"
    )
    smaller = ("--set-string", "extraEnv[0].name=DB_POOL_SIZE,extraEnv[0].value=4")
    assert "MIND" not in upgrade(
        api, version, "--set", "serviceDefaults.replicas=10", *smaller
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
def test_secrets_are_kept_when_it_is_removed_and_installed_anew_over_the_kept_volume(
    api: Api, version: str
) -> None:
    install(api, version)
    before = secrets(api)
    where = (
        "--namespace",
        NAMESPACE,
        "--kube-apiserver",
        api.url,
        "--kube-token",
        "none",
    )
    helm(version, "uninstall", RELEASE, *where)
    assert secrets(api) == before
    install(api, version)
    assert secrets(api) == before


@BOTH
def test_secrets_are_kept_when_they_are_named_as_ones_own_later(
    api: Api, version: str
) -> None:
    install(api, version)
    before = secrets(api)
    names = (
        "postgresql.existingSecret=shop-postgresql",
        "rabbitmq.existingSecret=shop-rabbitmq",
    )
    upgrade(
        api,
        version,
        "--set",
        ",".join((*names, "tokenSecret.existingSecret=shop-gateway")),
    )
    assert secrets(api) == before


@BOTH
@pytest.mark.parametrize(
    "key", ["users-password", "operator-password"]
)  # earlier versions had no operator
def test_a_password_that_is_missing_is_made_and_the_others_are_kept(
    api: Api, version: str, key: str
) -> None:
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
def test_secrets_of_ones_own_get_the_rights_of_a_new_version_by_the_command_in_the_readme(
    api: Api, version: str
) -> None:
    """Passwords of before and one for a new user; the cluster is read only."""
    install(api, version)
    before = secrets(api)
    users = {"operator-password", "definitions.json"}
    api.of("Secret")["shop-rabbitmq"]["data"] = {
        key: value for key, value in before["shop-rabbitmq"].items() if key not in users
    }
    api.changes.clear()
    readme = (CHART / "README.md").read_text()
    arguments = "--show-only templates/secrets.yaml --dry-run=server"
    assert (
        f"helm template shop charts/shop --namespace nameko-07 {arguments} >" in readme
    )
    made = {
        name_of(each): each["data"]
        for each in parse(run(api, version, "template", *arguments.split()))
    }
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
            seen.append(
                {value for data in secrets(api).values() for value in data.values()}
            )
    assert not seen[0] & seen[1]
    assert len(seen[0]) == sum(len(data) for data in secrets(api).values())


@BOTH
def test_every_revision_has_a_job_of_its_own(api: Api, version: str) -> None:
    install(api, version)
    assert [job.rpartition("-")[0] for job in api.of("Job")] == ["shop-migrations-1"]
    upgrade(api, version)
    assert [job.rpartition("-")[0] for job in api.of("Job")] == ["shop-migrations-2"]
    assert "job/shop-migrations-3-" in upgrade(api, version)


@BOTH
def test_an_upgrade_changes_no_field_that_kubernetes_refuses_to_change(
    api: Api, version: str
) -> None:
    """Neither a selector nor a claim; whatever is put into image, labels and all settings of a pod."""
    install(api, version)
    before = {kind: api.of(kind) for kind in ("Deployment", "StatefulSet")}
    upgrade(
        api,
        version,
        *(
            "--set",
            "image.tag=9.9.9,commonLabels.team=a,postgresql.image.tag=18.1,rabbitmq.image.tag=4.3",
        ),
        *(
            "--set",
            "nodeSelector.disk=ssd,serviceDefaults.replicas=3,podAnnotations.a=b",
        ),
    )
    assert changed(api, "deployments")
    for _, path, patch in changed(api, "deployments") + changed(api, "statefulsets"):
        kind = "Deployment" if "/deployments/" in path else "StatefulSet"
        was = before[kind][path.rpartition("/")[2]]["spec"]
        fixed = (
            {"selector"}
            if kind == "Deployment"
            else {"selector", "serviceName", "volumeClaimTemplates"}
        )
        for key in fixed & patch["spec"].keys():
            assert patch["spec"][key] == was[key], f"{path}: {key}"


@BOTH
def test_an_upgrade_with_the_same_values_restarts_nothing(
    api: Api, version: str
) -> None:
    install(api, version)
    before = {kind: api.of(kind) for kind in ("Deployment", "StatefulSet")}
    upgrade(api, version)
    for _, path, patch in changed(api, "deployments") + changed(api, "statefulsets"):
        kind = "Deployment" if "/deployments/" in path else "StatefulSet"
        was = before[kind][path.rpartition("/")[2]]["spec"]["template"]
        assert patch.get("spec", {}).get("template", was) == was, path


@BOTH
def test_wrong_values_install_nothing(api: Api, version: str) -> None:
    with pytest.raises(HelmError, match="currency"):
        install(api, version, "--set", "currency=Euro")
    assert not api.changes


def test_the_server_would_notice(api: Api) -> None:
    """What is asked to change is recorded, with what it is changed to."""
    version = next(iter(VERSIONS))
    install(api, version)
    upgrade(api, version, "--set", "logLevel=DEBUG")
    assert "DEBUG" in yaml.safe_dump(changed(api, "deployments"))
