"""checkov finds nothing in the chart, except for the checks that checkov.yaml skips."""

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
# The objects that a skipped check may find, if it is skipped for some objects only.
EXEMPT = {
    "CKV_K8S_8": r"Pod\..*-test",
    "CKV_K8S_9": r"Pod\..*-test",
    "CKV_K8S_40": r"(Pod\..*-test|StatefulSet\..*-(postgresql|rabbitmq))",
}


def failures(folder: Path, config: Path) -> dict[str, set[str]]:
    """Return the objects that fail a check, by check."""
    assert CHECKOV.exists(), f"{CHECKOV} is missing: `make test-chart` installs it"
    options = ("--config-file", config, "--directory", folder, "--output", "json")
    command = [CHECKOV, *options, "--soft-fail"]
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


def test_each_skipped_check_would_find_its_exempt_objects(
    rendered: Path, tmp_path
) -> None:
    # No pod of this set names a user.
    (rendered / "openshift.yaml").unlink()
    config = yaml.safe_load(CONFIG.read_text())
    skipped = set(config.pop("skip-check"))
    unskipped = tmp_path / "checkov.yaml"
    unskipped.write_text(yaml.safe_dump(config))
    found = failures(rendered, unskipped)
    assert found.keys() == skipped
    for check, exempt in EXEMPT.items():
        others = [each for each in found[check] if not re.match(exempt, each)]
        assert others == []


def test_each_skipped_check_has_a_reason() -> None:
    lines = CONFIG.read_text().partition("skip-check:\n")[2].splitlines()
    for before, line in pairwise(lines):
        if line.lstrip().startswith("- "):
            assert before.lstrip().startswith(("# ", "- CKV_K8S_8")), line
