"""A release starts only if tag, version, chart, changelog and settings agree."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dev import release
from dev.broker import CHECKOUT
from dev.failure import Failure

SETTINGS = {"REGISTRY": "registry.example.org", "NAMESPACE": "acme/shop"}
DIGEST = "sha256:" + "0123456789abcdef" * 4
CHANGELOG = """\
# Changelog

## [Unreleased]

Later.

## [1.2.3] - 2026-01-31

### Added

- This.

## [1.2.2]

- Before.
"""
# A fake `docker buildx build`: it writes the digest into the file of --metadata-file.
DOCKER = """\
#!/bin/bash
echo "$@" >>"$(dirname "$0")/calls"
for argument; do [ "$previous" != --metadata-file ] || file=$argument; previous=$argument; done
cat >"$file" <<END
{
  "buildx.build.ref": "a/b/c",
  "containerimage.digest": "$DIGEST"
}
END
"""
# A fake helm. It fails without an ANSWER.
HELM = """\
#!/bin/bash
[ "$1" = push ] || exit 2
printf 'Pushed: a\\n%s\\n' "$ANSWER" >&2
[ -n "$ANSWER" ]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of version 1.2.3 that is ready for its release."""
    (tmp_path / "charts/shop").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "charts/shop/Chart.yaml").write_text(
        'version: 1.2.3\nappVersion: "1.2.3"\n'
    )
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], Path]:
    """`program(name, text)`: write a fake program and return its path."""

    def make(name: str, text: str) -> Path:
        path = tmp_path / "programs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    return make


def test_a_consistent_project_may_be_released(project) -> None:
    release.check(project, "v1.2.3", SETTINGS)


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2.4", "v1.2.3-rc1"])
def test_a_tag_unlike_the_version_is_refused(project, tag) -> None:
    with pytest.raises(
        Failure,
        match=re.escape(f"the tag is {tag}, but pyproject.toml has version 1.2.3"),
    ):
        release.check(project, tag, SETTINGS)


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        (
            "charts/shop/Chart.yaml",
            "version: 1.2.3",
            "version: 1.2.2",
            "version in charts",
        ),
        (
            "charts/shop/Chart.yaml",
            'appVersion: "1.2.3"',
            'appVersion: "1.2.2"',
            "appVersion in charts",
        ),
        ("CHANGELOG.md", "[1.2.3]", "[1.2.1]", "CHANGELOG.md has no section"),
        ("CHANGELOG.md", "### Added\n\n- This.\n", "", "CHANGELOG.md has no section"),
    ],
)
def test_an_outdated_version_is_reported(project, file, old, new, reason) -> None:
    path = project / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(Failure, match=reason):
        release.check(project, "v1.2.3", SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_missing_setting_is_reported(project, name) -> None:
    with pytest.raises(Failure, match=f"{name} is not set"):
        release.check(project, "v1.2.3", {**SETTINGS, name: ""})


def test_the_notes_are_the_section_of_this_version(project) -> None:
    assert release.notes(project) == "### Added\n\n- This.\n"


def test_the_chart_has_the_version_of_the_project(project) -> None:
    """`check` passes with a section in the changelog, which is written at the release."""
    for name in ("pyproject.toml", "charts/shop/Chart.yaml"):
        shutil.copy(CHECKOUT / name, project / name)
    version = release.version_of(CHECKOUT)
    (project / "CHANGELOG.md").write_text(f"## [{version}]\n\nAll.\n")
    release.check(project, f"v{version}", SETTINGS)


def test_a_pushed_chart_is_named_by_its_digest(program, monkeypatch, tmp_path) -> None:
    helm = program("helm", HELM)
    monkeypatch.setenv("ANSWER", f"Digest: {DIGEST}")
    pushed = release.push(
        helm, tmp_path / "shop-1.2.3.tgz", "registry.example.org/acme/charts"
    )
    assert pushed == f"registry.example.org/acme/charts/shop@{DIGEST}"


@pytest.mark.parametrize(
    ("answer", "reason"), [("", "push failed: Pushed: a"), ("ok", "names no digest")]
)
def test_a_failed_push_is_reported(
    program, monkeypatch, tmp_path, answer, reason
) -> None:
    monkeypatch.setenv("ANSWER", answer)
    with pytest.raises(Failure, match=reason):
        release.push(
            program("helm", HELM),
            tmp_path / "shop-1.2.3.tgz",
            "registry.example.org/acme/charts",
        )


def test_release_images_have_two_architectures_and_a_digest(
    program,
) -> None:
    docker = program("docker", DOCKER)
    environment = {
        **SETTINGS,
        "BUILDER": "buildx",
        "DIGEST": DIGEST,
        "PATH": f"{docker.parent}:{os.environ['PATH']}",
    }
    command = [CHECKOUT / "dev/images/build.sh"]
    built = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout
    calls = (docker.parent / "calls").read_text().splitlines()
    images = re.findall(
        r"^FROM runtime AS ", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE
    )
    assert len(calls) == len(images) > 1
    for call in calls:
        assert call.startswith(
            "buildx build --push --platform linux/amd64,linux/arm64 --sbom=true "
        )
    names = re.findall(
        rf"^  registry\.example\.org/acme/shop/([a-z0-9-]+)@{DIGEST}$",
        built,
        re.MULTILINE,
    )
    assert len(set(names)) == len(images)


def test_an_image_without_a_digest_is_refused(program) -> None:
    docker = program("docker", DOCKER)
    environment = {
        "BUILDER": "buildx",
        "DIGEST": "",
        "PATH": f"{docker.parent}:{os.environ['PATH']}",
    }
    command = [CHECKOUT / "dev/images/build.sh"]
    tried = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (tried.returncode, tried.stdout) == (1, "")
    assert (
        "docker buildx named no digest of neversleeps/user-service-07" in tried.stderr
    )
