"""README.ru.md agrees with README.md, the chart and the documents."""

import json
import re

import pytest

from tests.docs.markdown import ROOT, blocks, commands, links

RUSSIAN = ROOT / "docs" / "README.ru.md"
SOURCES = (ROOT / "README.md", ROOT / "charts" / "shop" / "README.md")
TEXT = RUSSIAN.read_text()
COMMANDS = [command.strip() for block in blocks(RUSSIAN) for command in commands(block)]
STYLE = re.compile(
    r"^\| \[(\d)\..*\]\(interactions/(\w+)\.md\).* \| (\d+) \|$", re.MULTILINE
)
ORDER = re.compile(
    r"^\| \*\*an order\*\*: messages, letter included \| (.+) \|$", re.MULTILINE
)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_one_of_the_english_documents(command: str) -> None:
    english = [block for file in SOURCES for block in blocks(file)]
    assert command in [each.strip() for block in english for each in commands(block)]


def test_it_installs_the_chart_and_runs_the_scenario() -> None:
    for start in (
        "make demo",
        "make test",
        "make images",
        "helm install",
        "npx --prefix postman newman run",
    ):
        assert any(command.startswith(start) for command in COMMANDS), start
    [install] = [command for command in COMMANDS if command.startswith("helm install")]
    assert "--namespace nameko-07 --create-namespace" in install


def test_both_readmes_link_each_other_and_the_architecture() -> None:
    english, russian = links(ROOT / "README.md"), links(RUSSIAN)
    assert "docs/README.ru.md" in english
    assert {"../README.md", "diagrams/architecture-containers.svg"} <= set(russian)
    assert "docs/diagrams/architecture-containers.svg" in english


def test_the_styles_have_as_many_messages_as_in_their_comparison() -> None:
    comparison = (ROOT / "docs" / "interactions" / "README.md").read_text()
    [row] = ORDER.findall(comparison)
    counted = [cell.partition(",")[0] for cell in row.split(" | ")]
    numbers, pages, messages = zip(*STYLE.findall(TEXT), strict=True)
    assert numbers == ("1", "2", "3", "4")
    assert list(messages) == counted
    for page in pages:
        assert (ROOT / "docs" / "interactions" / f"{page}.md").exists()


def test_its_scenario_has_the_collections_amounts_and_host() -> None:
    file = ROOT / "postman" / "shop.postman_collection.json"
    collection = json.loads(file.read_text())
    text = json.dumps(collection, ensure_ascii=False)
    for amount in ("100.00", "30.10", "69.91", "69.90"):
        assert amount in text
        assert amount in TEXT
    variables = {each["key"]: each["value"] for each in collection["variable"]}
    assert variables["baseUrl"].removeprefix("http://") == "arch.homework"
    assert "`arch.homework`" in TEXT
