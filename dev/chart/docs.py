"""Writes the generated parts of charts/shop.

They are the table of values in its README, its version, and copies of licence and scenario.

The table is made of the comments of values.yaml, in the notation of Bitnami's readme-generator:

    ## @section Title
    ## A line about it, or several.
    ## @param path.to.value What it is; its default is read from values.yaml

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
# Copies in the chart, by path in the repository. Not links: helm warns of them, and git on Windows
# makes none.
COPIES: dict[str, Path] = {
    "LICENSE": CHART / "LICENSE",
    "NOTICE": CHART / "NOTICE",
    f"postman/{SCENARIO}": CHART / "files" / SCENARIO,
}


@dataclass
class Section:
    """What stands below one `## @section`: lines of text, and what each value is, by its path."""

    title: str
    text: list[str] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> list[Section]:
    """The sections of a values.yaml."""
    sections: list[Section] = []
    for line in text.splitlines():
        tag, _, rest = line.strip().removeprefix("## ").partition(" ")
        if not line.strip().startswith("##"):
            continue
        if tag == "@section":
            sections.append(Section(rest))
        elif not sections:
            raise Failure(
                f"values.yaml: a comment stands before the first @section: {line}"
            )
        elif tag == "@param":
            path, _, description = rest.partition(" ")
            sections[-1].params[path] = description
        else:
            sections[-1].text.append(f"{tag} {rest}".strip())
    return sections


def at(values: Any, path: str) -> Any:
    """The value at a dotted path; Failure where there is none."""
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            raise Failure(f"values.yaml: a comment tells of {path}, which is not there")
        values = values[part]
    return values


def table(text: str) -> str:
    """The README's part that tells all values of a values.yaml."""
    values = yaml.safe_load(text)
    lines: list[str] = []
    for section in parse(text):
        lines += [
            f"### {section.title}",
            "",
            *section.text,
            *([""] if section.text else []),
        ]
        lines += ["| value | what it is | default |", "| --- | --- | --- |"]
        for path, description in section.params.items():
            lines.append(
                f"| `{path}` | {_cell(description)} | `{_cell(_default(at(values, path)))}` |"
            )
        lines.append("")
    return "\n".join(lines)


def with_table(readme: str, text: str) -> str:
    """The README with the table between its two marks."""
    before, begin, rest = readme.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Failure(f"charts/shop/README.md needs the lines {BEGIN} and {END}")
    return f"{before}{begin}\n{table(text)}\n{end}{after}"


def with_version(chart: str, version: str) -> str:
    """A Chart.yaml whose chart and app have this version."""
    for key, value in (("version", version), ("appVersion", f'"{version}"')):
        chart, found = re.subn(
            rf"^{key}: .*$", f"{key}: {value}", chart, flags=re.MULTILINE
        )
        if found != 1:
            raise Failure(f"Chart.yaml needs one line {key}:")
    return chart


def _default(value: Any) -> str:
    return (
        value
        if value and isinstance(value, str)
        else json.dumps(value, ensure_ascii=False)
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write() -> None:
    readme = CHART / "README.md"
    readme.write_text(
        with_table(readme.read_text(), (CHART / "values.yaml").read_text())
    )
    chart = CHART / "Chart.yaml"
    chart.write_text(with_version(chart.read_text(), version_of(ROOT)))
    for source, copy in COPIES.items():
        shutil.copyfile(ROOT / source, copy)


if __name__ == "__main__":
    try:
        write()
    except Failure as failure:
        sys.exit(str(failure))
