"""README and docs: links have targets, samples parse, names exist, and commands run in tests."""

import ast
import importlib.util
import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from dev.cli import USERS
from tests.docs.markdown import (
    DOCUMENTS,
    LINKING,
    ROOT,
    Block,
    anchors,
    blocks_in,
    commands,
    links,
)

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
RUN = {
    "docs/CONTRIBUTING.md": "tests/docs/test_contributing.py",
    "README.md": "tests/docs/test_readme.py",
    "docs/operations.md": "tests/docs/test_operations.py",
}
# tests/docs/test_adding_a_service.py follows it.
FOLLOWED = "docs/adding-a-service.md"
# tests/test_currencies.py runs its SQL.
CONVERTING = "docs/operations.md"
# Commands in indented blocks that no test here can run, by their beginnings.
NOT_RUN = {
    "docker compose": "needs docker's engine; tests/images checks compose.yaml and does the same",
    "helm install": "needs a cluster; tests/chart renders and installs without one",
    "cosign verify": "needs a release",
    "git ": "changes a checkout; tests/docs/test_making_it_yours.py works in a copy",
    "helm test": "needs a cluster; tests/chart renders its pod",
    "npx --prefix postman newman run": "tests/system/test_postman.py runs the collection",
    "name=": "a variable of the lines below it",
    "buildah push": "needs a registry, or several hundred MB; tests/images builds the images",
    "pg_restore ...": "an outline; the function below it is run",
    "nameko shell": "tests/docs/test_readme.py runs the session",
    'AMQP_URI="$(cat': "tests/system/test_secrets.py runs it",
    "python3 -c 'import urllib.parse": "tests/system/test_secrets.py runs it",
    "rabbitmqctl set_policy": "chassis/tests/interface/test_queue_limits.py runs it",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tracked(*patterns: str) -> str:
    """Return the text of all files that git tracks, of these patterns."""
    command = ["git", "ls-files", *patterns]
    listed = subprocess.check_output(command, cwd=ROOT, text=True).split()
    files = [ROOT / name for name in listed]
    return "\n".join(file.read_text() for file in files if file.exists())


@pytest.mark.parametrize("file", LINKING, ids=name_of)
def test_links_have_existing_targets(file: Path) -> None:
    for link in links(file):
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_links_and_anchors_are_found(tmp_path: Path) -> None:
    prose = "# One two!\n[a](b.md#c) `[code](x)` [d](https://e.f)\n"
    block = "```\n[g](h)\n# no\n```\n"
    (tmp_path / "a.md").write_text(f"{prose}{block}![i](j.svg)\n")
    assert links(tmp_path / "a.md") == ["b.md#c", "j.svg"]
    assert anchors(tmp_path / "a.md") == {"one-two"}


def test_every_decision_is_listed_by_its_title() -> None:
    folder = ROOT / "docs" / "adr"
    records = sorted(folder.glob("0*.md"))
    titles = [(path.name, path.read_text().partition("\n")[0]) for path in records]
    index = (folder / "README.md").read_text()
    listed = re.findall(r"^(\d+\.) \[(.+)\]\((.+)\)$", index, re.MULTILINE)
    assert [(name, f"# {number} {title}") for number, title, name in listed] == titles


@pytest.mark.parametrize("block", blocks_in("json"), ids=str)
def test_json_parses(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks_in("yaml"), ids=str)
def test_yaml_parses(block: Block) -> None:
    assert all(part is not None for part in yaml.safe_load_all(block.text))


@pytest.mark.parametrize("block", blocks_in("python"), ids=str)
def test_python_parses(block: Block) -> None:
    ast.parse(block.text)


def test_tests_execute_all_sql() -> None:
    assert {name_of(block.file) for block in blocks_in("sql")} == {FOLLOWED, CONVERTING}


def test_tests_run_all_bash() -> None:
    assert {name_of(block.file) for block in blocks_in("bash")} == RUN.keys()
    assert [test for test in RUN.values() if not (ROOT / test).exists()] == []


TYPED = [
    (str(block), command.strip())
    for block in blocks_in("")
    for command in commands(block)
]


@pytest.mark.parametrize(("where", "command"), TYPED)
def test_each_typed_command_exists(where: str, command: str) -> None:
    """Each typed command exists, or is in NOT_RUN.

    `make` has the targets and variables, `nameko run` the modules, a user the environment file,
    and scripts are executable.
    """
    command = re.sub(r"^([A-Z_]+)=\S+ (?=make )", r"make \1= && ", command)
    for part in command.split(" && "):
        program, *words = part.split()
        if program == "make":
            assert is_make(words), f"{where}: {part}"
        elif part.startswith("nameko run --config config.yaml "):
            files = [f"{module.replace('.', '/')}.py" for module in words[3:]]
            assert files
            assert all((ROOT / file).exists() for file in files), where
        elif program == ".":
            assert words[0].removeprefix(".run/env/") in USERS, f"{where}: {part}"
        elif program.startswith("dev/"):
            assert os.access(ROOT / program, os.X_OK), f"{where}: {part}"
        else:
            assert part.startswith(tuple(NOT_RUN)), f"{where}: {part}"


def is_make(words: list[str]) -> bool:
    """Return whether the Makefile has these targets, and a file reads these variables."""
    variables = {word.partition("=")[0] for word in words if "=" in word}
    targets = {word for word in words if "=" not in word}
    readers = MAKEFILE + tracked("dev/*.sh", "config.yaml")
    are_read = all(re.search(rf"\$[({{]+{name}\b", readers) for name in variables)
    return targets <= TARGETS and are_read


def test_each_command_that_is_not_run_is_documented() -> None:
    typed = "\n".join(command for _, command in TYPED)
    assert [start for start in NOT_RUN if start not in typed] == []


def test_an_unknown_target_or_variable_is_found() -> None:
    assert is_make(["audit", "FLAGS=--settled"])
    assert not is_make(["audi"])
    assert not is_make(["audit", "FLAG=--settled"])


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_targets_and_modules_in_the_text_exist(file: Path) -> None:
    text = file.read_text()
    assert set(re.findall(r"`make ([a-z][a-z-]*)", text)) <= TARGETS
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module


TEST_FILE = re.compile(r"(?<![\w/>*])(?:[\w-]+/)+test_\w+\.py\b")


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_test_files_in_the_text_exist(file: Path) -> None:
    """Another test checks the files that docs/adding-a-service.md adds."""
    if name_of(file) != FOLLOWED:
        named = TEST_FILE.findall(file.read_text())
        assert sorted({name for name in named if not (ROOT / name).exists()}) == []


def test_security_md_names_tests() -> None:
    text = (ROOT / "docs" / "SECURITY.md").read_text()
    assert len(set(TEST_FILE.findall(text))) >= 30


MONEY = re.compile(r"n\.rpc\.(?:billing\.(?:deposit|withdraw|cancel)|orders\.place)\b")
KEYED = re.compile(rf"{MONEY.pattern}\([^)]*\b(?:key|ref|order_id)=")


def without_key(text: str) -> list[str]:
    """Return the commands that move money and have no key, so that a retry is not safe."""
    starts = [each.start() for each in MONEY.finditer(text)]
    return [text[at:][:80] for at in starts if not KEYED.match(text, at)]


def test_each_documented_command_that_moves_money_has_a_key() -> None:
    """Stock `nameko shell` has no other protection, because its requests never expire."""
    text = tracked("*.md", "dev/cli.py")
    assert len(MONEY.findall(text)) >= 5
    assert without_key(text) == []


def test_a_command_without_a_key_is_found() -> None:
    keyed = 'n.rpc.orders.place(user_id=u["id"],\n    price_minor=1, key="k")'
    bare = [
        "n.rpc.orders.place(user_id=1, price_minor=2)[key]",
        "n.rpc.billing.cancel(...), ref=1",
    ]
    expected = ["\n".join(bare)[:80], bare[1]]
    assert without_key("\n".join([keyed, *bare])) == expected


SETTING = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b(?!\.md)")
CODE = ("*.py", "*.yaml", "*.yml", "*.sh", "Makefile", "Dockerfile", "*.sql")


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_settings_in_the_text_exist(file: Path) -> None:
    """They are settings of config.yaml, or constants in the code.

    Another test checks the settings that docs/adding-a-service.md adds.
    """
    if name_of(file) != FOLLOWED:
        code = tracked(*CODE)
        named = set(SETTING.findall(file.read_text()))
        assert [name for name in named if not re.search(rf"\b{name}\b", code)] == []
