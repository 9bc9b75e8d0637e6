"""checkov has nothing to say but what checkov.yaml gives a reason against."""

import json
import re
import subprocess
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from dev.chart.tools import CHECKOV
from tests.chart.helm import SETS, text

CONFIG = Path(__file__).with_name("checkov.yaml")
# Where a skipped check is not for all: whom it may find fault with.
ONLY = {
    "CKV_K8S_8": r"Pod\..*-test",
    "CKV_K8S_9": r"Pod\..*-test",
    "CKV_K8S_40": r"(Pod\..*-test|StatefulSet\..*-(postgresql|rabbitmq))",
}


def failures(folder: Path, config: Path) -> dict[str, set[str]]:
    """The objects that checkov finds fault with, by check."""
    assert CHECKOV.exists(), f"{CHECKOV} is missing: `make test-chart` installs it"
    command = [
        CHECKOV,
        "--config-file",
        config,
        "--directory",
        folder,
        "--output",
        "json",
        "--soft-fail",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=True
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 100
    found = defaultdict(set)
    for each in report["results"]["failed_checks"]:
        found[each["check_id"]].add(each["resource"])
    return found


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    for name in SETS:
        (folder / f"{name}.yaml").write_text(text(name))
    return folder


def test_checkov_finds_nothing(rendered: Path) -> None:
    assert failures(rendered, CONFIG) == {}


def test_each_check_that_is_skipped_would_find_something_and_just_that(
    rendered: Path, tmp_path
) -> None:
    (rendered / "openshift.yaml").unlink()  # no pod of it names a user at all
    config = yaml.safe_load(CONFIG.read_text())
    skipped = set(config.pop("skip-check"))
    unskipped = tmp_path / "checkov.yaml"
    unskipped.write_text(yaml.safe_dump(config))
    found = failures(rendered, unskipped)
    assert found.keys() == skipped
    for check, whom in ONLY.items():
        assert [
            resource for resource in found[check] if not re.match(whom, resource)
        ] == []


def test_each_check_that_is_skipped_has_its_reason() -> None:
    lines = CONFIG.read_text().partition("skip-check:\n")[2].splitlines()
    for before, line in pairwise(lines):
        if line.lstrip().startswith("- "):
            assert before.lstrip().startswith(("# ", "- CKV_K8S_8")), line
