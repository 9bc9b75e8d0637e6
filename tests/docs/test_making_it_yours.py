"""docs/making-it-yours.md: its renaming works in a copy, and its lists of files are complete."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import NEWEST, RELEASE, helm
from tests.docs.markdown import ROOT, blocks
from tests.mutants import copy_to

PAGE = ROOT / "docs" / "making-it-yours.md"
[RENAMING] = [block.text for block in blocks(PAGE) if block.language == "sh"]
OLD = r"nameko-shop|neversleeps|(service|migrations|databases|\$name|nameko)-07|arch\\*\.homework"
KEPT = (
    ":!CHANGELOG.md",
    ":!docs/adr",
    ":!docs/diagrams/*.svg",
    ":!docs/making-it-yours.md",
    ":!*NOTICE",
)
DROPPED = "notifications"
# Documents, tests, results, and the permissions of the previous version.
TEXTS = (
    ":!*.md",
    ":!docs",
    ":!tests",
    ":!*/tests/*",
    ":!dev/bench/results",
    ":!charts/shop/files/bus-previous.yaml",
)
DROP = PAGE.read_text().partition("\n## Drop a service\n")[2].partition("\n## ")[0]
ROWS = [line for line in DROP.splitlines() if line.startswith("| `")]
FILE = re.compile(r"`([\w.-]+(?:/[\w.-]+)*)`")
TIMEOUT_S = 120


def run(root: Path, *command: str | Path) -> str:
    """Run a command and return its output. Raises AssertionError if it fails."""
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rename(root: Path) -> str:
    """Rename as the page says; return the state of all files."""
    run(root, "bash", "-e", "-c", RENAMING)
    run(root, "git", "add", "--all")
    return run(root, "git", "write-tree")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a renamed checkout."""
    root = copy_to(tmp_path_factory.mktemp("renamed"))
    run(root, "git", "init", "--quiet")
    run(root, "git", "add", "--all")
    author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    run(root, "git", *author, "commit", "--quiet", "--message=As it was")
    before = run(root, "git", "write-tree")
    assert rename(root) != before
    return root


def test_no_old_name_is_left(copy: Path) -> None:
    found = subprocess.run(
        ["git", "grep", "-nIE", OLD, "--", ".", *KEPT],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout) == (1, "")


def test_the_renaming_can_be_repeated(copy: Path) -> None:
    assert rename(copy) == rename(copy)


def test_the_chart_has_the_renamed_images_and_host(copy: Path) -> None:
    folder = copy / "charts" / "shop"
    chart = helm(NEWEST, "template", RELEASE, folder, "--namespace", "bazaar-eu")
    objects: list[dict[str, Any]] = [each for each in yaml.safe_load_all(chart) if each]
    images = set(re.findall(r"image: \"?(\S+?)\"?$", chart, re.MULTILINE))
    own = {image for image in images if image.startswith("acme/")}
    assert len(own) == 6
    assert all(re.fullmatch(r"acme/[a-z-]+-eu:[\d.]+", image) for image in own)
    [ingress] = [each for each in objects if each["kind"] == "Ingress"]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == ["shop.example.org"]


def test_generated_files_are_renamed_too(copy: Path) -> None:
    for module in ("dev.specs.openapi", "dev.specs.asyncapi", "dev.chart.docs"):
        run(copy, sys.executable, "-W", "ignore", "-m", module)
    assert run(copy, "git", "diff", "--name-only") == ""


def test_each_file_that_names_the_dropped_service_is_listed() -> None:
    command = ("git", "grep", "-lIw", DROPPED, "--", ".", f":!{DROPPED}")
    naming = run(ROOT, *command, *TEXTS).split()
    listed = set(FILE.findall(DROP))
    assert [name for name in naming if name not in listed] == []


def test_the_files_of_the_lists_exist() -> None:
    listed = [name for row in ROWS for name in FILE.findall(row.split(" | ")[0])]
    assert len(listed) > 30
    assert [name for name in listed if not (ROOT / name).exists()] == []


def test_the_files_to_remove_exist() -> None:
    lines = DROP.splitlines()
    [command] = [line for line in lines if line.startswith("    git rm -r ")]
    patterns = command.split()[3:]
    assert [pattern for pattern in patterns if not [*ROOT.glob(pattern)]] == []
