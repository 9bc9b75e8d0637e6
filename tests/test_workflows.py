"""The files for GitHub and pre-commit call only verbs, files and programs that exist."""

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
MAKEFILE = (CHECKOUT / "Makefile").read_text()
VERBS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
LOCK = (CHECKOUT / "requirements" / "dev.lock").read_text()
LOCKED = re.findall(r"^([a-z0-9.-]+)==", LOCK, re.MULTILINE)
PROGRAMS = {"lint-imports": "import-linter"}  # packages with another name
PINNED = re.compile(r"uses: ([a-z]+/[a-z-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$")


def read(path: Path) -> dict[str, Any]:
    """Read a YAML file with all values as text. Nameko's command changes the other loaders."""
    found: dict[str, Any] = yaml.load(path.read_text(), yaml.BaseLoader)
    return found


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each job of each workflow, with the names of both."""
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            yield f"{path.stem}: {name}", job


def scripts() -> Iterator[tuple[str, str]]:
    """Yield the script of each step, with the name of its job."""
    for name, job in jobs():
        steps = job.get("steps", [])
        yield from ((name, step["run"]) for step in steps if "run" in step)


def hooks() -> list[dict[str, Any]]:
    """Return the hooks of pre-commit."""
    (repository,) = read(CHECKOUT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"  # needs no network
    found: list[dict[str, Any]] = repository["hooks"]
    return found


def devcontainer() -> dict[str, Any]:
    """Read devcontainer.json without its comment lines."""
    text = (CHECKOUT / ".devcontainer/devcontainer.json").read_text()
    without_comments = re.sub(r"^ *//.*$", "", text, flags=re.MULTILINE)
    found: dict[str, Any] = json.loads(without_comments)
    return found


def called(text: str) -> set[str]:
    """Return the verbs of make that a script calls."""
    return set(re.findall(r"^\s*make (?:--silent )?([a-z-]+)", text, re.MULTILINE))


def test_called_verbs_exist_in_the_makefile() -> None:
    verbs = {verb for _, script in scripts() for verb in called(script)}
    for _, job in jobs():
        verbs.update(job.get("strategy", {}).get("matrix", {}).get("verb", []))
    verbs |= {verb for hook in hooks() for verb in called(hook["entry"])}
    verbs |= called(devcontainer()["postCreateCommand"])
    tests = {"test", "test-upgrade", "test-broker", "test-images"}
    assert verbs >= {"demo", "size", "install", *tests}
    assert verbs <= VERBS


def test_both_commands_run_on_each_accepted_python() -> None:
    lowest, highest = re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"])
    accepted = [f"3.{minor}" for minor in range(int(lowest), int(highest))]
    suite = dict(jobs())["ci: suite"]
    included = suite["strategy"]["matrix"]["include"]
    assert [entry["python"] for entry in included] == accepted
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
    """GitHub evaluates any other expression to nothing, and no schema reports it."""
    used = 0
    for path in WORKFLOWS:
        workflow = read(path)["jobs"]
        for job in workflow.values():
            needed = {job["needs"]} if "needs" in job else set()
            steps = {step["id"] for step in job.get("steps", []) if "id" in step}
            outputs = {name: set(workflow[name].get("outputs", {})) for name in needed}
            text = json.dumps(job)
            for need, output in re.findall(r"\bneeds\.(\w+)\.outputs\.(\w+)", text):
                assert output in outputs[need]
                used += 1
            assert set(re.findall(r"\bsteps\.(\w+)\.", text)) <= steps
    assert used


def test_actions_are_pinned_by_one_commit_each() -> None:
    lines = [
        line.strip().removeprefix("- ")
        for path in WORKFLOWS
        for line in path.read_text().splitlines()
    ]
    used = [line for line in lines if line.startswith("uses: ")]
    uses = [line for line in used if not line.startswith("uses: ./")]
    pins = {match.groups() for line in uses if (match := PINNED.fullmatch(line))}
    assert len(uses) > 5
    assert all(PINNED.fullmatch(line) for line in uses)
    assert len({action for action, _, _ in pins}) == len(pins)


def test_workflows_repeat_no_image_name() -> None:
    """dev/images/build.sh contains the list."""
    script = (CHECKOUT / "dev/images/build.sh").read_text()
    images = re.findall(r"^  [a-z]+=(\S+)$", script, re.MULTILINE)
    assert images
    for path in WORKFLOWS:
        assert not [name for name in images if name in path.read_text()], path.name


def test_hooks_run_locked_programs() -> None:
    entries = "\n".join(hook["entry"] for hook in hooks())
    programs = re.findall(r"^\.venv/bin/([a-z-]+)", entries, re.MULTILINE)
    assert len(programs) == 4
    assert {PROGRAMS.get(program, program) for program in programs} <= set(LOCKED)


def test_the_devcontainer_forwards_ports_of_the_suite() -> None:
    forwarded = devcontainer()["forwardPorts"]
    erlangs = {7369, 7673}
    assert sorted(forwarded) == sorted(set(ports.DEFAULTS.values()) - erlangs)
    assert [str(port) for port in forwarded] == list(devcontainer()["portsAttributes"])
