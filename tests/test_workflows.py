"""The host's files, without the host: what they call is there, on the accepted Pythons."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev import ports
from dev.broker import CHECKOUT

WORKFLOWS = sorted((CHECKOUT / ".github/workflows").glob("*.yml"))
VERBS = set(
    re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
)
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
LOCKED = re.findall(
    r"^([a-z0-9.-]+)==",
    (CHECKOUT / "requirements" / "dev.lock").read_text(),
    re.MULTILINE,
)
PROGRAMS = {"lint-imports": "import-linter"}  # by another name than their package's
PINNED = re.compile(r"uses: ([a-z]+/[a-z-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$")


def read(path: Path) -> dict[str, Any]:
    """What the file says, all values as texts. Nameko's command changes the other loaders of YAML."""
    found: dict[str, Any] = yaml.load(path.read_text(), yaml.BaseLoader)
    return found


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each job of each workflow, with the name of both."""
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            yield f"{path.stem}: {name}", job


def scripts() -> Iterator[tuple[str, str]]:
    """The script of each step that has one, with its job."""
    for name, job in jobs():
        yield from (
            (name, step["run"]) for step in job.get("steps", []) if "run" in step
        )


def hooks() -> list[dict[str, Any]]:
    """The hooks of pre-commit."""
    (repository,) = read(CHECKOUT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"  # needs no network
    found: list[dict[str, Any]] = repository["hooks"]
    return found


def devcontainer() -> dict[str, Any]:
    """devcontainer.json without its comments, which have lines of their own."""
    text = (CHECKOUT / ".devcontainer/devcontainer.json").read_text()
    found: dict[str, Any] = json.loads(
        re.sub(r"^ *//.*$", "", text, flags=re.MULTILINE)
    )
    return found


def called(text: str) -> set[str]:
    """The verbs of make in a script."""
    return set(re.findall(r"^\s*make (?:--silent )?([a-z-]+)", text, re.MULTILINE))


def test_called_verbs_exist_in_the_makefile() -> None:
    verbs = {verb for _, script in scripts() for verb in called(script)}
    for _, job in jobs():
        verbs.update(job.get("strategy", {}).get("matrix", {}).get("verb", []))
    verbs |= {verb for hook in hooks() for verb in called(hook["entry"])}
    verbs |= called(devcontainer()["postCreateCommand"])
    assert verbs >= {
        "demo",
        "test",
        "test-upgrade",
        "test-broker",
        "test-images",
        "size",
        "install",
    }
    assert verbs <= VERBS


def test_both_commands_run_on_each_accepted_python() -> None:
    lowest, highest = re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"])
    accepted = [f"3.{minor}" for minor in range(int(lowest), int(highest))]
    suite = dict(jobs())["ci: suite"]
    assert [
        entry["python"] for entry in suite["strategy"]["matrix"]["include"]
    ] == accepted
    commands = [step.get("run", "") for step in suite["steps"]]
    assert {"make demo", "make test"} <= set(commands)


def test_the_workflows_run_each_verb_of_the_ci_script() -> None:
    verbs = called((CHECKOUT / ".ci/run").read_text())
    assert verbs
    assert verbs <= {"test", *dict(jobs())["ci: beside"]["strategy"]["matrix"]["verb"]}


@pytest.mark.parametrize(("job", "script"), list(scripts()))
def test_scripts_parse_and_call_existing_files(job, script) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for path in re.findall(r"\bdev/[a-z/.]+", script):
        assert (CHECKOUT / path).is_file()
    for module in re.findall(r"-m (dev[a-z.]+)", script):
        assert (CHECKOUT / f"{module.replace('.', '/')}.py").is_file()


def test_a_job_uses_only_outputs_that_exist() -> None:
    """An expression of something else is empty at the host, and no schema finds it."""
    used = 0
    for path in WORKFLOWS:
        workflow = read(path)["jobs"]
        for job in workflow.values():
            needed = {job["needs"]} if "needs" in job else set()
            steps = {step["id"] for step in job.get("steps", []) if "id" in step}
            outputs = {name: set(workflow[name].get("outputs", {})) for name in needed}
            for need, output in re.findall(
                r"\bneeds\.(\w+)\.outputs\.(\w+)", json.dumps(job)
            ):
                assert output in outputs[need]
                used += 1
            assert set(re.findall(r"\bsteps\.(\w+)\.", json.dumps(job))) <= steps
    assert used


def test_actions_are_pinned_by_one_commit_each() -> None:
    lines = [
        line.strip().removeprefix("- ")
        for path in WORKFLOWS
        for line in path.read_text().splitlines()
    ]
    uses = [
        line
        for line in lines
        if line.startswith("uses: ") and not line.startswith("uses: ./")
    ]
    pins = {match.groups() for line in uses if (match := PINNED.fullmatch(line))}
    assert len(uses) > 5
    assert all(PINNED.fullmatch(line) for line in uses)
    assert len({action for action, _, _ in pins}) == len(pins)


def test_workflows_repeat_no_image_name() -> None:
    """dev/images/build.sh has the list."""
    images = re.findall(
        r"^  [a-z]+=(\S+)$",
        (CHECKOUT / "dev/images/build.sh").read_text(),
        re.MULTILINE,
    )
    assert images
    for path in WORKFLOWS:
        assert not [name for name in images if name in path.read_text()], path.name


def test_hooks_run_locked_programs() -> None:
    programs = [
        match[1]
        for hook in hooks()
        if (match := re.match(r"\.venv/bin/([a-z-]+)", hook["entry"]))
    ]
    assert len(programs) == 4
    assert {PROGRAMS.get(program, program) for program in programs} <= set(LOCKED)


def test_the_devcontainer_forwards_ports_of_the_suite() -> None:
    forwarded = devcontainer()["forwardPorts"]
    assert sorted(forwarded) == sorted(
        set(ports.DEFAULTS.values()) - {7369, 7673}
    )  # Erlang's own
    assert [str(port) for port in forwarded] == list(devcontainer()["portsAttributes"])
