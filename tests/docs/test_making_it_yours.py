"""docs/making-it-yours.md: its renaming, followed in a copy, and its lists of places, compared with git's."""

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
# Documents, tests, results, and the permissions of the version before.
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
    """What a command prints; fails where the command does."""
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rename(root: Path) -> str:
    """Does what the page says; returns the state of all files."""
    run(root, "bash", "-e", "-c", RENAMING)
    run(root, "git", "add", "--all")
    return run(root, "git", "write-tree")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with other names."""
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


def test_the_chart_asks_for_the_renamed_images_and_host(copy: Path) -> None:
    chart = helm(
        NEWEST,
        "template",
        RELEASE,
        copy / "charts" / "shop",
        "--namespace",
        "bazaar-eu",
    )
    objects: list[dict[str, Any]] = [each for each in yaml.safe_load_all(chart) if each]
    images = set(re.findall(r"image: \"?(\S+?)\"?$", chart, re.MULTILINE))
    ours = {image for image in images if image.startswith("acme/")}
    assert len(ours) == 6
    assert all(re.fullmatch(r"acme/[a-z-]+-eu:[\d.]+", image) for image in ours)
    [ingress] = [each for each in objects if each["kind"] == "Ingress"]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == ["shop.example.org"]


def test_made_files_are_the_renamed_ones(copy: Path) -> None:
    for module in ("dev.specs.openapi", "dev.specs.asyncapi", "dev.chart.docs"):
        run(copy, sys.executable, "-W", "ignore", "-m", module)
    assert run(copy, "git", "diff", "--name-only") == ""


def test_each_file_that_names_the_dropped_service_is_listed() -> None:
    naming = run(
        ROOT, "git", "grep", "-lIw", DROPPED, "--", ".", f":!{DROPPED}", *TEXTS
    ).split()
    listed = set(FILE.findall(DROP))
    assert [name for name in naming if name not in listed] == []


def test_the_files_of_the_lists_exist() -> None:
    listed = [name for row in ROWS for name in FILE.findall(row.split(" | ")[0])]
    assert len(listed) > 30
    assert [name for name in listed if not (ROOT / name).exists()] == []


def test_the_files_to_remove_exist() -> None:
    [command] = [
        line.split() for line in DROP.splitlines() if line.startswith("    git rm -r ")
    ]
    assert [pattern for pattern in command[3:] if not [*ROOT.glob(pattern)]] == []
