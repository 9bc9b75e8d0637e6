"""Write the generated parts of charts/shop.

They are the table of values in its README, its version, and copies of licence and scenario.

The table comes from the comments of values.yaml, in the notation of Bitnami's readme-generator.
The defaults are the values themselves.

    ## @section Title
    ## One or more lines of text.
    ## @param path.to.value Description

usage: python -m dev.chart.docs
"""

import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dev.chart.tools import ROOT
from dev.failure import Failure
from dev.release import version_of

CHART = ROOT / "charts" / "shop"
BEGIN, END = "<!-- values -->", "<!-- /values -->"
SCENARIO = "shop.postman_collection.json"
# Copies in the chart, by path in the repository. Links would not do: helm warns of them, and git
# on Windows creates none.
COPIES: dict[str, Path] = {
    "LICENSE": CHART / "LICENSE",
    "NOTICE": CHART / "NOTICE",
    f"postman/{SCENARIO}": CHART / "files" / SCENARIO,
}


@dataclass
class Section:
    """A section of the table: lines of text, and the description of each value by its path."""

    title: str
    text: list[str] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> list[Section]:
    """Return the sections of a values.yaml."""
    sections: list[Section] = []
    for line in text.splitlines():
        tag, _, rest = line.strip().removeprefix("## ").partition(" ")
        if not line.strip().startswith("##"):
            continue
        if tag == "@section":
            sections.append(Section(rest))
        elif not sections:
            raise Failure(f"values.yaml: a comment before the first @section: {line}")
        elif tag == "@param":
            path, _, description = rest.partition(" ")
            sections[-1].params[path] = description
        else:
            sections[-1].text.append(f"{tag} {rest}".strip())
    return sections


def at(values: Any, path: str) -> Any:
    """Return the value at a dotted path. Raises Failure if there is none."""
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            raise Failure(f"values.yaml: a comment describes {path}, but it is missing")
        values = values[part]
    return values


def table(text: str) -> str:
    """Return the README's tables of all values of a values.yaml."""
    values = yaml.safe_load(text)
    lines: list[str] = []
    for section in parse(text):
        lines += [f"### {section.title}", "", *section.text]
        if section.text:
            lines.append("")
        lines += ["| value | what it is | default |", "| --- | --- | --- |"]
        for path, description in section.params.items():
            default = _cell(_default(at(values, path)))
            lines.append(f"| `{path}` | {_cell(description)} | `{default}` |")
        lines.append("")
    return "\n".join(lines)


def with_table(readme: str, text: str) -> str:
    """Return the README with the tables between its two marks."""
    before, begin, rest = readme.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Failure(f"charts/shop/README.md needs the lines {BEGIN} and {END}")
    return f"{before}{begin}\n{table(text)}\n{end}{after}"


def with_version(chart: str, version: str) -> str:
    """Return a Chart.yaml whose chart and app have this version."""
    for key, value in (("version", version), ("appVersion", f'"{version}"')):
        line = re.compile(rf"^{key}: .*$", re.MULTILINE)
        chart, found = line.subn(f"{key}: {value}", chart)
        if found != 1:
            raise Failure(f"Chart.yaml needs one line {key}:")
    return chart


def _default(value: Any) -> str:
    if value and isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write() -> None:
    readme = CHART / "README.md"
    values = (CHART / "values.yaml").read_text()
    readme.write_text(with_table(readme.read_text(), values))
    chart = CHART / "Chart.yaml"
    chart.write_text(with_version(chart.read_text(), version_of(ROOT)))
    for source, copy in COPIES.items():
        shutil.copyfile(ROOT / source, copy)


if __name__ == "__main__":
    try:
        write()
    except Failure as failure:
        sys.exit(str(failure))
