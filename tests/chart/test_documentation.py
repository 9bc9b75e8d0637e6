"""The chart's documents are complete and correct; copied and generated files are current."""

import itertools
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit.__main__ import TABLES, format_result
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
from gateway import documents
from tests.chart.helm import CHART, DEFAULTS, name_of, objects, of, pods, selects
from tests.chart.test_kubernetes import KUBERNETES, faults

VALUES = (CHART / "values.yaml").read_text()
PARAMS = {
    path: text for section in parse(VALUES) for path, text in section.params.items()
}
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
# The permissions of each user on the broker.
PERMISSION_FILES = ("bus.yaml", "bus-previous.yaml")
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
    """Yield the dotted paths of all values."""
    if not isinstance(values, dict) or not values:
        yield path
        return
    for key, value in values.items():
        yield from leaves(value, f"{path}.{key}".removeprefix("."))


def resolved(schema: Any) -> list[dict[str, Any]]:
    """Return a schema and the parts of its `allOf`, with references resolved."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/definitions/")
        return resolved(SCHEMA["definitions"][name])
    parts = [each for part in schema.get("allOf", []) for each in resolved(part)]
    return [schema, *parts]


def in_schema(path: str) -> bool:
    places = resolved(SCHEMA)
    for part in path.split("."):
        fields = [place.get("properties", {}) for place in places]
        inner = [each[part] for each in fields if part in each]
        if not inner:
            others = [place.get("additionalProperties") for place in places]
            return any(isinstance(each, dict) for each in others)
        schemas = [schema for schema in inner if schema is not False]
        places = [each for schema in schemas for each in resolved(schema)]
    return True


@pytest.mark.parametrize("path", sorted(leaves(DEFAULTS)))
def test_every_value_has_a_comment_and_a_schema(path: str) -> None:
    parts = path.split(".")
    above = {".".join(parts[: count + 1]) for count in range(len(parts))}
    assert above & PARAMS.keys(), f"no @param describes {path}"
    assert in_schema(path)


@pytest.mark.parametrize("path", PARAMS)
def test_every_comment_describes_a_value(path: str) -> None:
    assert len(PARAMS[path]) >= 6
    value: Any = DEFAULTS
    for part in path.split("."):
        assert part in value
        value = value[part]


def test_a_value_has_one_comment() -> None:
    assert len(re.findall(r"## @param ", VALUES)) == len(PARAMS)


def test_every_value_in_the_schema_is_described() -> None:
    """A map that several services share is described where its defaults are."""
    for name, schema in SCHEMA["properties"].items():
        assert name in DEFAULTS
        for place in resolved(schema):
            for key, inner in place.get("properties", {}).items():
                is_described = any(
                    path == name or f"{path}.".startswith(f"{name}.{key}.")
                    for path in PARAMS
                )
                is_shared = (name, key) == ("serviceDefaults", "image")
                assert inner is False or is_described or is_shared, f"{name}.{key}"


def test_the_readmes_table_is_made_from_the_comments() -> None:
    readme = (CHART / "README.md").read_text()
    assert readme == with_table(readme, VALUES), "run `make chart-docs`"


@pytest.mark.parametrize("source", COPIES)
def test_the_charts_copies_equal_their_sources(source: str) -> None:
    copy = COPIES[source]
    assert not copy.is_symlink()
    assert copy.read_bytes() == (ROOT / source).read_bytes(), "run `make chart-docs`"


def test_the_chart_has_no_other_files() -> None:
    files = {path.name for path in Path(CHART, "files").iterdir()}
    assert files == {SCENARIO, *PERMISSION_FILES}


def test_the_readme_names_all_commands() -> None:
    named = set(re.findall(r"cronjob/([a-z-]+)", (CHART / "README.md").read_text()))
    assert named == {name_of(each) for each in of(objects("default"), "CronJob")}


def test_the_readmes_samples_are_the_real_output() -> None:
    """The audit's sample is from after one `helm test`."""
    readme = (CHART / "README.md").read_text()
    [sample, *_] = re.findall(r"(?: {4}.+\n)* {4}differences: none\n", readme)
    lines = textwrap.dedent(sample).splitlines()
    rows = (line.split(maxsplit=1) for line in lines[:-1])
    checked = {
        check: int(amount) if amount.isdigit() else amount for check, amount in rows
    }
    assert [*checked] == [*TABLES, "money"]
    report = {"checked": checked, "differences": 0, "first": []}
    assert lines == format_result(report).splitlines()
    assert json.dumps({"status": "ok"}) in readme
    assert "/healthz" in health.PATHS
    default = objects("default")
    kept = re.findall(r"^ {4}\[Secret\] (.+)$", readme, re.MULTILINE)
    assert sorted(kept) == sorted(name_of(each) for each in of(default, "Secret"))
    pod_line = r"^ {4}(shop-[a-z]+-).* (?:Running|Completed) "
    shown = re.findall(pod_line, readme, re.MULTILINE)
    makers = of(default, "Deployment", "StatefulSet", "Job")
    names = [name_of(each) for each in makers]
    assert shown
    assert all(any(f"{name}-".startswith(pod) for name in names) for pod in shown)


def test_kubernetes_accepts_the_readmes_manifests() -> None:
    """An additional policy must select the pods of the release."""
    readme = (CHART / "README.md").read_text()
    blocks = re.findall(r"^```yaml\n(.+?)^```", readme, re.MULTILINE | re.DOTALL)
    loaded = [yaml.safe_load(block) for block in blocks]
    found = [each for each in loaded if each.get("kind") == "NetworkPolicy"]
    assert found
    for each in found:
        assert faults([each], KUBERNETES[0]) == []
        selector = each["spec"]["podSelector"]
        assert all(selects(selector, pod) for pod in pods(objects("default")).values())


def test_all_routes_are_public_but_those_for_the_cluster() -> None:
    source = Path(ROOT, "gateway", "service.py").read_text()
    routes = re.findall(r'@route\(\s*"[A-Z]+", "(/[^"<]*)', source)
    assert len(routes) > 5
    paths = [*routes, *documents.FILES, "/healthz"]
    for name, path in itertools.product(("default", "gateway-api"), paths):
        assert is_public(path, name), path
    for name, path in itertools.product(("default", "gateway-api"), HIDDEN):
        assert not is_public(path, name), path


HIDDEN = ("/readyz", "/startedz", "/metrics", "/pages", "/favicon.ico", "//")


def is_public(path: str, name: str) -> bool:
    """Return whether an Ingress or HTTPRoute serves the path."""
    return any(
        path == public or (kind != "Exact" and f"{path}/".startswith(f"{public}/"))
        for kind, public in public_paths(name)
    )


def public_paths(name: str) -> list[tuple[str, str]]:
    """Return the type and the path of each match of an Ingress or HTTPRoute."""
    found = of(objects(name), "Ingress", "HTTPRoute")
    rules = [rule for each in found for rule in each["spec"]["rules"]]
    paths = []
    for rule in rules:
        for each in rule.get("http", {}).get("paths", []):
            paths.append((each["pathType"], each["path"]))
        for each in rule.get("matches", []):
            paths.append((each["path"]["type"], each["path"]["value"]))
    return paths


def test_the_chart_has_the_version_of_the_suite() -> None:
    chart = (CHART / "Chart.yaml").read_text()
    assert chart == with_version(chart, version_of(ROOT)), "run `make chart-docs`"
    annotations = yaml.safe_load(chart)["annotations"]
    assert annotations["artifacthub.io/license"] == "Apache-2.0"


def test_a_version_is_written_as_text_into_both_lines() -> None:
    chart = 'version: 0.0.1\nappVersion: "0.0.1"\nkubeVersion: ">=1"\n'
    updated = 'version: 1.10\nappVersion: "1.10"\nkubeVersion: ">=1"\n'
    assert with_version(chart, "1.10") == updated
    with pytest.raises(Failure, match="appVersion"):
        with_version("version: 0.0.1\n", "1.10")


def test_comments_are_parsed_by_section() -> None:
    assert parse(COMMENTED) == [
        Section("The first", ["A line about it."], {"a.b": "How | many"}),
        Section("The second", [], {"c": "Whether"}),
    ]


def test_a_table_has_path_description_and_default() -> None:
    lines = table(COMMENTED).splitlines()
    assert lines[:3] == ["### The first", "", "A line about it."]
    assert r"| `a.b` | How \| many | `[1, 2]` |" in lines
    assert '| `c` | Whether | `""` |' in lines


def test_only_the_text_between_the_marks_is_replaced() -> None:
    written = with_table(f"before\n{BEGIN}\nold\n{END}\nafter\n", COMMENTED)
    assert written.startswith(f"before\n{BEGIN}\n\n### The first")
    assert written.endswith(f"\n{END}\nafter\n")
    assert "old" not in written


@pytest.mark.parametrize(
    "wrong", ["## @param a What", "## @section A\n## @param b What\na: 1"]
)
def test_a_comment_without_a_value_is_refused(wrong: str) -> None:
    with pytest.raises(Failure):
        table(wrong)


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(Failure, match="README"):
        with_table("no marks", COMMENTED)
