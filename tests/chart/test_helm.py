"""Both versions of helm lint the chart without warnings, and render the same objects."""

import tarfile

import pytest

from tests.chart.helm import (
    CHART,
    NAMESPACE,
    RELEASE,
    SETS,
    VERSIONS,
    Object,
    helm,
    name_of,
    objects,
    parse,
    values_of,
)

EVERY_SET = pytest.mark.parametrize("name", SETS)
BOTH = pytest.mark.parametrize("version", VERSIONS)


@BOTH
def test_each_helm_has_its_version(version: str) -> None:
    assert helm(version, "version", "--short").startswith(f"v{version}+")


def test_at_least_nine_sets_of_values_are_checked() -> None:
    assert len(SETS) >= 9


@BOTH
@EVERY_SET
def test_strict_lint_finds_nothing(name: str, version: str) -> None:
    options = ("--strict", "--namespace", NAMESPACE, *values_of(name))
    output = helm(version, "lint", CHART, *options)
    assert "1 chart(s) linted, 0 chart(s) failed" in output
    assert "[WARNING]" not in output


@EVERY_SET
def test_both_versions_render_the_same_objects(name: str) -> None:
    first, second = (
        without_random_data(objects(name, version)) for version in VERSIONS
    )
    assert first == second


def without_random_data(found: list[Object]) -> dict[tuple[str, str], Object]:
    """Return the objects by kind and name, without the data of Secrets.

    Secrets are random in each rendering.
    """
    same = {(each["kind"], name_of(each)): each for each in found}
    for key, each in same.items():
        if each["kind"] == "Secret":
            same[key] = {**each, "data": dict.fromkeys(each["data"])}
    return same


@EVERY_SET
def test_no_two_objects_have_the_same_kind_and_name(name: str) -> None:
    seen = [(each["kind"], each["metadata"]["name"]) for each in objects(name)]
    assert len(seen) == len(set(seen))


@EVERY_SET
def test_every_object_is_in_the_namespace_of_the_release(name: str) -> None:
    for each in objects(name):
        assert each["metadata"].get("namespace", NAMESPACE) == NAMESPACE


@BOTH
def test_a_package_renders_like_the_folder(version: str, tmp_path) -> None:
    helm(version, "package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("shop-*.tgz")
    arguments = ("template", RELEASE, package, "--namespace", NAMESPACE)
    packed = parse(helm(version, *arguments))
    assert without_random_data(packed) == without_random_data(
        objects("default", version)
    )


def test_a_package_contains_only_the_chart(tmp_path) -> None:
    helm(next(iter(VERSIONS)), "package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("shop-*.tgz")
    with tarfile.open(package) as archive:
        packed = {name.removeprefix("shop/") for name in archive.getnames()}
    files = [path for path in CHART.rglob("*") if path.is_file()]
    expected = {str(path.relative_to(CHART)) for path in files}
    assert packed in (expected - {".helmignore"}, expected)


@BOTH
def test_the_chart_has_no_dependencies(version: str) -> None:
    assert "WARNING: no dependencies" in helm(version, "dependency", "list", CHART)
