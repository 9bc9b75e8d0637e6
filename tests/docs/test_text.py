"""README and docs: links lead somewhere, samples parse, what is named is there, commands were run."""

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
    LINKING,
    ROOT,
    TOLD,
    Block,
    anchors,
    blocks_in,
    commands,
    links,
)

MAKEFILE = (ROOT / "Makefile").read_text()
VERBS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
RUN = {
    "docs/CONTRIBUTING.md": "tests/docs/test_contributing.py",
    "README.md": "tests/docs/test_readme.py",
    "docs/operations.md": "tests/docs/test_operations.py",
}
FOLLOWED = "docs/adding-a-service.md"  # by tests/docs/test_adding_a_service.py
CONVERTING = "docs/operations.md"  # by tests/test_currencies.py
# Commands in indented blocks that no test here can run, by their beginnings.
NOT_RUN = {
    "docker compose": "needs docker's engine; tests/images checks compose.yaml and does what it does",
    "helm install": "needs a cluster; tests/chart renders and installs without one",
    "cosign verify": "needs a release",
    "git ": "changes a checkout; tests/docs/test_making_it_yours.py follows what it can in a copy",
    "helm test": "needs a cluster; tests/chart renders its pod",
    "npx --prefix postman newman run": "tests/system/test_postman.py runs the collection",
    "name=": "a variable of the lines below it",
    "buildah push": "needs a registry, or several hundred MB of disk; tests/images builds what it pushes",
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
    """The text of all files that git tracks, of these patterns."""
    listed = subprocess.run(
        ["git", "ls-files", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(
        (ROOT / name).read_text()
        for name in listed.stdout.split()
        if (ROOT / name).exists()
    )


@pytest.mark.parametrize("file", LINKING, ids=name_of)
def test_links_lead_to_files_and_headings_that_there_are(file: Path) -> None:
    for link in links(file):
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    text = "# One two!\n[a](b.md#c) `[code](x)` [d](https://e.f)\n```\n[g](h)\n# no\n```\n![i](j.svg)\n"
    (tmp_path / "a.md").write_text(text)
    assert links(tmp_path / "a.md") == ["b.md#c", "j.svg"]
    assert anchors(tmp_path / "a.md") == {"one-two"}


def test_every_decision_is_listed_by_its_title() -> None:
    folder = ROOT / "docs" / "adr"
    titles = [
        (path.name, path.read_text().partition("\n")[0])
        for path in sorted(folder.glob("0*.md"))
    ]
    listed = re.findall(
        r"^(\d+\.) \[(.+)\]\((.+)\)$", (folder / "README.md").read_text(), re.MULTILINE
    )
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


def test_all_sql_is_executed() -> None:
    assert {name_of(block.file) for block in blocks_in("sql")} == {FOLLOWED, CONVERTING}


def test_all_bash_is_run() -> None:
    assert {name_of(block.file) for block in blocks_in("bash")} == RUN.keys()
    assert [test for test in RUN.values() if not (ROOT / test).exists()] == []


TYPED = [
    (str(block), command.strip())
    for block in blocks_in("")
    for command in commands(block)
]


@pytest.mark.parametrize(("where", "command"), TYPED)
def test_what_is_to_be_typed_is_there(where: str, command: str) -> None:
    """Each typed command exists, or is in the list of what can't be run.

    `make` has its verb and variables, `nameko run` its modules, a user its variables, and scripts are
    executable.
    """
    command = re.sub(r"^([A-Z_]+)=\S+ (?=make )", r"make \1= && ", command)
    for part in command.split(" && "):
        program, *words = part.split()
        if program == "make":
            assert is_make(words), f"{where}: {part}"
        elif part.startswith("nameko run --config config.yaml "):
            modules = words[3:]
            assert modules
            assert all(
                (ROOT / f"{module.replace('.', '/')}.py").exists() for module in modules
            ), where
        elif program == ".":
            assert words[0].removeprefix(".run/env/") in USERS, f"{where}: {part}"
        elif program.startswith("dev/"):
            assert os.access(ROOT / program, os.X_OK), f"{where}: {part}"
        else:
            assert part.startswith(tuple(NOT_RUN)), f"{where}: {part}"


def is_make(words: list[str]) -> bool:
    """Whether the Makefile has these verbs, and somebody reads these variables."""
    variables = {word.partition("=")[0] for word in words if "=" in word}
    read = MAKEFILE + tracked("dev/*.sh", "config.yaml")
    verbs = {word for word in words if "=" not in word}
    return verbs <= VERBS and all(
        re.search(rf"\$[({{]+{name}\b", read) for name in variables
    )


def test_the_list_of_what_is_not_run_has_nothing_that_is_not_told() -> None:
    told = [command for _, command in TYPED]
    assert [
        start for start in NOT_RUN if not any(start in command for command in told)
    ] == []


def test_a_verb_or_a_variable_that_there_is_not_is_found() -> None:
    assert is_make(["audit", "FLAGS=--settled"])
    assert not is_make(["audi"])
    assert not is_make(["audit", "FLAG=--settled"])


@pytest.mark.parametrize("file", TOLD, ids=name_of)
def test_verbs_and_modules_in_the_text_are_there(file: Path) -> None:
    text = file.read_text()
    assert set(re.findall(r"`make ([a-z][a-z-]*)", text)) <= VERBS
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module


TEST_FILE = re.compile(r"(?<![\w/>*])(?:[\w-]+/)+test_\w+\.py\b")


@pytest.mark.parametrize("file", TOLD, ids=name_of)
def test_test_files_named_in_the_text_are_there(file: Path) -> None:
    """A promise that names its test has one; another test follows what is added with a service."""
    if name_of(file) != FOLLOWED:
        named = TEST_FILE.findall(file.read_text())
        assert sorted({name for name in named if not (ROOT / name).exists()}) == []


def test_the_text_about_security_names_tests() -> None:
    assert (
        len(set(TEST_FILE.findall((ROOT / "docs" / "SECURITY.md").read_text()))) >= 30
    )


MONEY = re.compile(r"n\.rpc\.(?:billing\.(?:deposit|withdraw|cancel)|orders\.place)\b")
KEYED = re.compile(rf"{MONEY.pattern}\([^)]*\b(?:key|ref|order_id)=")


def without_key(text: str) -> list[str]:
    """The commands that move money or place an order and that could not be repeated safely."""
    return [
        text[each.start() :][:80]
        for each in MONEY.finditer(text)
        if not KEYED.match(text, each.start())
    ]


def test_each_documented_command_that_moves_money_has_a_key() -> None:
    """Stock `nameko shell` has no other protection: its requests never expire."""
    text = tracked("*.md", "dev/cli.py")
    assert len(MONEY.findall(text)) >= 5
    assert without_key(text) == []


def test_a_command_without_a_key_is_found() -> None:
    keyed = 'n.rpc.orders.place(user_id=u["id"],\n    price_minor=1, key="k")'
    bare = [
        "n.rpc.orders.place(user_id=1, price_minor=2)[key]",
        "n.rpc.billing.cancel(...), ref=1",
    ]
    assert without_key("\n".join([keyed, *bare])) == [
        f"{bare[0]}\n{bare[1]}"[:80],
        bare[1],
    ]


SETTING = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b(?!\.md)")
CODE = ("*.py", "*.yaml", "*.yml", "*.sh", "Makefile", "Dockerfile", "*.sql")


@pytest.mark.parametrize("file", TOLD, ids=name_of)
def test_settings_in_the_text_are_there(file: Path) -> None:
    """Those of config.yaml, and constants of the code; a test follows what is added with a service."""
    if name_of(file) != FOLLOWED:
        named = set(SETTING.findall(file.read_text()))
        assert [
            name for name in named if not re.search(rf"\b{name}\b", tracked(*CODE))
        ] == []
