"""The version stands in pyproject.toml. What else has it is made from there, and compared."""

import re
import subprocess

import pytest

from dev.release import version_of
from tests.docs.markdown import ROOT

# By `make chart-docs` and `make specs`, and the tests of both compare them.
MADE = {"charts/shop/Chart.yaml", "docs/asyncapi.yaml", "docs/openapi.yaml"}
WRITTEN = ("*.md", "*.yaml", "*.tpl", "*.txt", "*.sh", "Makefile", "Dockerfile")
RELEASE = re.compile(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d")


def has(text: str, version: str) -> bool:
    """Whether a text quotes this version, as it is or as the beginning of a tag."""
    return re.search(rf"(?<![\w.]){re.escape(version)}(?!\.?\w)", text) is not None


def test_no_file_quotes_the_version_but_those_that_are_made() -> None:
    listed = subprocess.run(
        ["git", "ls-files", *WRITTEN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = {name for name in listed.stdout.split() if (ROOT / name).exists()} - {
        "CHANGELOG.md"
    }
    assert {
        name for name in files if has((ROOT / name).read_text(), version_of(ROOT))
    } == MADE


def test_a_quoted_version_is_found() -> None:
    assert has("shop-07:0.1.0", "0.1.0")
    assert has("TAG=0.1.0-2.", "0.1.0")
    assert not any(
        has(text, "0.1.0") for text in ("10.1.0", "0.1.0.5", "0.1.05", "^0.1.00")
    )


def test_make_prints_the_version() -> None:
    printed = subprocess.run(
        ["make", "--no-print-directory", "version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout == f"{version_of(ROOT)}\n"


def releases(changelog: str) -> list[tuple[int, ...]]:
    """The releases of a changelog in its order; AssertionError for another heading."""
    first, *titles = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    assert first == "[Unreleased]"
    found = [RELEASE.fullmatch(title) for title in titles]
    assert None not in found, titles
    return [tuple(int(part) for part in each.groups()) for each in found if each]


def test_the_changelog_has_dated_releases_the_newest_of_which_is_the_version() -> None:
    found = releases((ROOT / "CHANGELOG.md").read_text())
    assert found == sorted(set(found), reverse=True)
    version = tuple(int(part) for part in version_of(ROOT).split("."))
    assert found[:1] in ([], [version])


def test_a_release_without_a_date_is_found() -> None:
    assert releases("## [Unreleased]\n## [1.10.0] - 2026-12-01\n") == [(1, 10, 0)]
    for wrong in ("## [1.10.0]\n", "## 1.10.0 - 2026-12-01\n"):
        with pytest.raises(AssertionError):
            releases(f"## [Unreleased]\n{wrong}")
