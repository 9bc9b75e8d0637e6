"""pyproject.toml has the version. Commands write all other copies of it from there."""

import re
import subprocess

import pytest

from dev.release import version_of
from tests.docs.markdown import ROOT

# Written by `make chart-docs` and `make specs`. The tests of both compare them.
GENERATED = {"charts/shop/Chart.yaml", "docs/asyncapi.yaml", "docs/openapi.yaml"}
WRITTEN = ("*.md", "*.yaml", "*.tpl", "*.txt", "*.sh", "Makefile", "Dockerfile")
RELEASE = re.compile(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d")


def has(text: str, version: str) -> bool:
    """Return whether a text contains this version, alone or as the beginning of a tag."""
    return re.search(rf"(?<![\w.]){re.escape(version)}(?!\.?\w)", text) is not None


def test_only_generated_files_contain_the_version() -> None:
    command = ["git", "ls-files", *WRITTEN]
    listed = subprocess.check_output(command, cwd=ROOT, text=True).split()
    files = {name for name in listed if (ROOT / name).exists()} - {"CHANGELOG.md"}
    version = version_of(ROOT)
    found = {name for name in files if has((ROOT / name).read_text(), version)}
    assert found == GENERATED


def test_a_quoted_version_is_found() -> None:
    assert has("shop-07:0.1.0", "0.1.0")
    assert has("TAG=0.1.0-2.", "0.1.0")
    for text in ("10.1.0", "0.1.0.5", "0.1.05", "^0.1.00"):
        assert not has(text, "0.1.0")


def test_make_prints_the_version() -> None:
    command = ["make", "--no-print-directory", "version"]
    printed = subprocess.check_output(command, cwd=ROOT, text=True)
    assert printed == f"{version_of(ROOT)}\n"


def releases(changelog: str) -> list[tuple[int, ...]]:
    """Return the releases of a changelog, in its order.

    Raises AssertionError for any other heading.
    """
    first, *titles = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    assert first == "[Unreleased]"
    found = [RELEASE.fullmatch(title) for title in titles]
    assert None not in found, titles
    return [tuple(int(part) for part in each.groups()) for each in found if each]


def test_the_newest_dated_release_is_the_version() -> None:
    found = releases((ROOT / "CHANGELOG.md").read_text())
    assert found == sorted(set(found), reverse=True)
    version = tuple(int(part) for part in version_of(ROOT).split("."))
    assert found[:1] in ([], [version])


def test_a_release_without_a_date_is_found() -> None:
    assert releases("## [Unreleased]\n## [1.10.0] - 2026-12-01\n") == [(1, 10, 0)]
    for wrong in ("## [1.10.0]\n", "## 1.10.0 - 2026-12-01\n"):
        with pytest.raises(AssertionError):
            releases(f"## [Unreleased]\n{wrong}")
