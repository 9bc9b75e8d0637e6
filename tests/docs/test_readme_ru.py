"""README.ru.md says what README.md, the chart and the documents say."""

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
    english = [
        each.strip()
        for file in SOURCES
        for block in blocks(file)
        for each in commands(block)
    ]
    assert command in english


def test_it_installs_the_chart_into_its_namespace_and_runs_the_scenario() -> None:
    starts = (
        "make demo",
        "make test",
        "make images",
        "helm install",
        "npx --prefix postman newman run",
    )
    assert all(
        any(command.startswith(start) for command in COMMANDS) for start in starts
    )
    [install] = [command for command in COMMANDS if command.startswith("helm install")]
    assert "--namespace nameko-07 --create-namespace" in install


def test_both_readmes_lead_to_each_other_and_show_the_same_architecture() -> None:
    english, russian = links(ROOT / "README.md"), links(RUSSIAN)
    assert "docs/README.ru.md" in english
    assert {"../README.md", "diagrams/architecture-containers.svg"} <= set(russian)
    assert "docs/diagrams/architecture-containers.svg" in english


def test_the_four_styles_take_as_many_messages_as_their_comparison_says() -> None:
    comparison = (ROOT / "docs" / "interactions" / "README.md").read_text()
    [row] = ORDER.findall(comparison)
    counted = [cell.partition(",")[0] for cell in row.split(" | ")]
    assert [number for number, _, _ in STYLE.findall(TEXT)] == ["1", "2", "3", "4"]
    assert [messages for _, _, messages in STYLE.findall(TEXT)] == counted
    assert all(
        (ROOT / "docs" / "interactions" / f"{page}.md").exists()
        for _, page, _ in STYLE.findall(TEXT)
    )


def test_the_amounts_and_the_host_of_the_scenario_are_those_of_the_collection() -> None:
    collection = json.loads(
        (ROOT / "postman" / "shop.postman_collection.json").read_text()
    )
    text = json.dumps(collection, ensure_ascii=False)
    assert all(
        amount in text and amount in TEXT
        for amount in ("100.00", "30.10", "69.91", "69.90")
    )
    variables = {each["key"]: each["value"] for each in collection["variable"]}
    assert variables["baseUrl"].removeprefix("http://") == "arch.homework"
    assert "`arch.homework`" in TEXT
