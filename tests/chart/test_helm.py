"""Both versions of helm find nothing to complain about, and make the same of the chart."""

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
def test_the_helm_that_is_asked_is_the_one_that_is_meant(version: str) -> None:
    assert helm(version, "version", "--short").startswith(f"v{version}+")


def test_nine_sets_of_values_are_looked_at_or_more() -> None:
    assert len(SETS) >= 9


@BOTH
@EVERY_SET
def test_lint_is_strict_and_finds_nothing(name: str, version: str) -> None:
    said = helm(
        version, "lint", CHART, "--strict", "--namespace", NAMESPACE, *values_of(name)
    )
    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert "[WARNING]" not in said


@EVERY_SET
def test_both_versions_render_the_same_objects(name: str) -> None:
    first, second = (without_chance(objects(name, version)) for version in VERSIONS)
    assert first == second


def without_chance(found: list[Object]) -> dict[tuple[str, str], Object]:
    """The objects by kind and name, without what is drawn by lot at each rendering."""
    same = {(each["kind"], name_of(each)): each for each in found}
    for kind, name in same:
        if kind == "Secret":
            same[kind, name] = {
                **same[kind, name],
                "data": dict.fromkeys(same[kind, name]["data"]),
            }
    return same


@EVERY_SET
def test_no_two_objects_have_the_same_kind_and_name(name: str) -> None:
    seen = [(each["kind"], each["metadata"]["name"]) for each in objects(name)]
    assert len(seen) == len(set(seen))


@EVERY_SET
def test_every_object_goes_into_the_namespace_of_the_release(name: str) -> None:
    for each in objects(name):
        assert each["metadata"].get("namespace", NAMESPACE) == NAMESPACE


@BOTH
def test_a_package_renders_as_the_folder_does(version: str, tmp_path) -> None:
    helm(version, "package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("shop-*.tgz")
    packed = parse(
        helm(version, "template", RELEASE, package, "--namespace", NAMESPACE)
    )
    assert without_chance(packed) == without_chance(objects("default", version))


def test_a_package_holds_the_chart_and_nothing_else(tmp_path) -> None:
    helm(next(iter(VERSIONS)), "package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("shop-*.tgz")
    with tarfile.open(package) as archive:
        packed = {name.removeprefix("shop/") for name in archive.getnames()}
    there = {
        str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()
    }
    assert packed == there - {".helmignore"} or packed == there


@BOTH
def test_it_needs_no_other_chart(version: str) -> None:
    assert "WARNING: no dependencies" in helm(version, "dependency", "list", CHART)
