"""The text about the values is complete and true, and copied or generated files are up to date."""

import itertools
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit.__main__ import TABLES, _table
from chassis import health
from dev.chart.docs import (
    BEGIN,
    COPIES,
    END,
    SCENARIO,
    Section,
    parse,
    table,
    with_table,
    with_version,
)
from dev.chart.tools import ROOT
from dev.failure import Failure
from dev.release import version_of
from tests.chart.helm import CHART, DEFAULTS, name_of, objects, of, pods, selects
from tests.chart.test_kubernetes import KUBERNETES, faults

VALUES = (CHART / "values.yaml").read_text()
PARAMS = {
    path: text for section in parse(VALUES) for path, text in section.params.items()
}
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
PERMISSION_FILES = (
    "bus.yaml",
    "bus-previous.yaml",
)  # what each user may do on the broker
COMMENTED = """\
## @section The first
## A line about it.
## @param a.b How | many
a:
  b: [1, 2]
## @section The second
## @param c Whether
c: ""
"""


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of all values."""
    if not isinstance(values, dict) or not values:
        yield path
        return
    for key, value in values.items():
        yield from leaves(value, f"{path}.{key}".removeprefix("."))


def resolved(schema: Any) -> list[dict[str, Any]]:
    """A schema and all that it refers to or is made of."""
    if "$ref" in schema:
        return resolved(
            SCHEMA["definitions"][schema["$ref"].removeprefix("#/definitions/")]
        )
    return [
        schema,
        *(each for part in schema.get("allOf", []) for each in resolved(part)),
    ]


def in_schema(path: str) -> bool:
    places = resolved(SCHEMA)
    for part in path.split("."):
        inner = [
            place["properties"][part]
            for place in places
            if part in place.get("properties", {})
        ]
        if not inner:
            return any(
                isinstance(place.get("additionalProperties"), dict) for place in places
            )
        places = [
            each for schema in inner if schema is not False for each in resolved(schema)
        ]
    return True


@pytest.mark.parametrize("path", sorted(leaves(DEFAULTS)))
def test_every_value_has_a_comment_and_stands_in_the_schema(path: str) -> None:
    parts = path.split(".")
    above = {".".join(parts[: count + 1]) for count in range(len(parts))}
    assert above & PARAMS.keys(), f"no @param tells of {path}"
    assert in_schema(path)


@pytest.mark.parametrize("path", PARAMS)
def test_every_comment_is_about_a_value_and_says_something(path: str) -> None:
    assert len(PARAMS[path]) >= 6
    value: Any = DEFAULTS
    for part in path.split("."):
        assert part in value
        value = value[part]


def test_a_value_has_one_comment() -> None:
    assert len(re.findall(r"## @param ", VALUES)) == len(PARAMS)


def test_the_schema_knows_no_value_that_is_not_told() -> None:
    """Of a map that is the same for several services, it is told where its defaults are."""
    for name, schema in SCHEMA["properties"].items():
        assert name in DEFAULTS
        for place in resolved(schema):
            for key, inner in place.get("properties", {}).items():
                told = any(
                    path == name or f"{path}.".startswith(f"{name}.{key}.")
                    for path in PARAMS
                )
                assert (
                    inner is False
                    or told
                    or (name, key) == ("serviceDefaults", "image")
                ), f"{name}.{key}"


def test_the_table_in_the_readme_is_the_one_of_the_comments() -> None:
    readme = (CHART / "README.md").read_text()
    assert readme == with_table(readme, VALUES), "run `make chart-docs`"


@pytest.mark.parametrize("source", COPIES)
def test_the_chart_has_true_copies_of_the_scenario_and_the_licence(source: str) -> None:
    copy = COPIES[source]
    assert not copy.is_symlink()
    assert copy.read_bytes() == (ROOT / source).read_bytes(), "run `make chart-docs`"


def test_the_chart_has_no_other_files() -> None:
    assert {path.name for path in Path(CHART, "files").iterdir()} == {
        SCENARIO,
        *PERMISSION_FILES,
    }


def test_the_readme_names_the_commands_that_are_there() -> None:
    named = set(re.findall(r"cronjob/([a-z-]+)", (CHART / "README.md").read_text()))
    assert named == {name_of(each) for each in of(objects("default"), "CronJob")}


def test_the_samples_in_the_readme_are_what_is_printed() -> None:
    """After one `helm test`: what the audit counts, and what else is shown of the programs."""
    readme = (CHART / "README.md").read_text()
    sample = textwrap.dedent(
        re.findall(r"(?: {4}.+\n)* {4}differences: none\n", readme)[0]
    ).splitlines()
    rows = (line.split(maxsplit=1) for line in sample[:-1])
    checked = {
        what: int(amount) if amount.isdigit() else amount for what, amount in rows
    }
    assert [*checked] == [*TABLES, "money"]
    assert (
        sample
        == _table({"checked": checked, "differences": 0, "first": []}).splitlines()
    )
    assert json.dumps({"status": "ok"}) in readme
    assert "/healthz" in health.PATHS
    kept = re.findall(r"^ {4}\[Secret\] (.+)$", readme, re.MULTILINE)
    assert sorted(kept) == sorted(
        name_of(each) for each in of(objects("default"), "Secret")
    )
    shown = re.findall(
        r"^ {4}(shop-[a-z]+-).* (?:Running|Completed) ", readme, re.MULTILINE
    )
    names = [
        name_of(each)
        for each in of(objects("default"), "Deployment", "StatefulSet", "Job")
    ]
    assert shown
    assert all(any(f"{name}-".startswith(pod) for name in names) for pod in shown)


def test_the_manifests_in_the_readme_are_ones_that_kubernetes_takes() -> None:
    """A policy beside the chart's own is for the pods of the release."""
    blocks = re.findall(
        r"^```yaml\n(.+?)^```",
        (CHART / "README.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    found = [
        each
        for block in blocks
        if (each := yaml.safe_load(block)).get("kind") == "NetworkPolicy"
    ]
    assert found
    for each in found:
        assert faults([each], KUBERNETES[0]) == []
        assert all(
            selects(each["spec"]["podSelector"], pod)
            for pod in pods(objects("default")).values()
        )


def test_all_that_the_gateway_serves_is_let_in_but_what_is_the_clusters_own() -> None:
    routes = re.findall(
        r'@http\(\s*"[A-Z]+", "(/[^"<]*)',
        Path(ROOT, "gateway", "service.py").read_text(),
    )
    assert len(routes) > 5
    described = ["/openapi.json", "/docs", "/docs/page"]
    for name, path in itertools.product(
        ("default", "gateway-api"), [*routes, *described, "/healthz"]
    ):
        assert any(f"{path}/".startswith(f"{prefix}/") for prefix in public(name)), path
        assert not {"/", "/readyz", "/metrics"} & set(public(name))


def public(name: str) -> list[str]:
    """The prefixes that an Ingress or HTTPRoute lets in."""
    found = objects(name)
    rules = [
        rule
        for each in of(found, "Ingress", "HTTPRoute")
        for rule in each["spec"]["rules"]
    ]
    paths = [
        path["path"] for rule in rules for path in rule.get("http", {}).get("paths", [])
    ]
    return [
        *paths,
        *(
            match["path"]["value"]
            for rule in rules
            for match in rule.get("matches", [])
        ),
    ]


def test_the_chart_has_the_version_of_the_suite() -> None:
    chart = (CHART / "Chart.yaml").read_text()
    assert chart == with_version(chart, version_of(ROOT)), "run `make chart-docs`"
    assert (
        yaml.safe_load(chart)["annotations"]["artifacthub.io/license"] == "Apache-2.0"
    )


def test_a_version_is_written_as_text_into_both_lines() -> None:
    chart = 'version: 0.0.1\nappVersion: "0.0.1"\nkubeVersion: ">=1"\n'
    assert (
        with_version(chart, "1.10")
        == 'version: 1.10\nappVersion: "1.10"\nkubeVersion: ">=1"\n'
    )
    with pytest.raises(Failure, match="appVersion"):
        with_version("version: 0.0.1\n", "1.10")


def test_comments_are_parsed_by_section() -> None:
    assert parse(COMMENTED) == [
        Section("The first", ["A line about it."], {"a.b": "How | many"}),
        Section("The second", [], {"c": "Whether"}),
    ]


def test_a_table_tells_path_description_and_default() -> None:
    lines = table(COMMENTED).splitlines()
    assert lines[:3] == ["### The first", "", "A line about it."]
    assert r"| `a.b` | How \| many | `[1, 2]` |" in lines
    assert '| `c` | Whether | `""` |' in lines


def test_only_what_is_between_the_marks_is_written_anew() -> None:
    written = with_table(f"before\n{BEGIN}\nold\n{END}\nafter\n", COMMENTED)
    assert written.startswith(f"before\n{BEGIN}\n\n### The first")
    assert written.endswith(f"\n{END}\nafter\n")
    assert "old" not in written


@pytest.mark.parametrize(
    "wrong", ["## @param a What", "## @section A\n## @param b What\na: 1"]
)
def test_a_comment_that_stands_for_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(Failure):
        table(wrong)


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(Failure, match="README"):
        with_table("no marks", COMMENTED)
