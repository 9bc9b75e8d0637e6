"""Runs README's commands with curl and its session in `nameko shell` on a running suite."""

import doctest
import json

import pytest

from tests.contracts import alike
from tests.docs.markdown import ROOT, blocks, commands

BLOCKS = blocks(ROOT / "README.md")
[CURL] = [block.text for block in BLOCKS if block.language == "bash"]
[SAMPLE] = [
    json.loads(block.text)
    for block in blocks(ROOT / "docs" / "api.md")
    if block.language == "json"
]
[SESSION] = [block for block in BLOCKS if ">>> " in block.text]
DEFAULT = "127.0.0.1:8000"


def test_the_curl_commands_have_the_documented_results(suite, terminal) -> None:
    assert CURL.count(DEFAULT) == 1
    printed = terminal.run(CURL.replace(DEFAULT, suite.url.removeprefix("http://")))
    responses = [json.loads(line) for line in printed.splitlines()]
    before, deposit, paid, rejected, after, letters, newest, story = responses
    assert (before["balance"], after["balance"]) == ("0.00", "69.90")
    assert deposit["status"] == "done"
    assert alike(paid) == alike(SAMPLE)
    assert list(paid) == list(SAMPLE)
    assert rejected["status"] == "rejected"
    assert rejected["reason"] == "insufficient-funds"
    assert [letter["kind"] for letter in letters["items"]] == ["grief", "happiness"]
    assert newest == rejected == story["order"]
    assert {step["state"] for step in story["steps"]} == {"done"}


@pytest.mark.parametrize(
    "command",
    ["\n".join(commands(SESSION)), "make --no-print-directory shell"],
    ids=["nameko", "make"],
)
def test_the_shell_session_has_the_documented_results(
    suite, terminal, tmp_path, command
) -> None:
    examples = doctest.DocTestParser().get_examples(SESSION.text)
    typed = tmp_path / "typed"
    typed.write_text("".join(example.source for example in examples))
    # A busy machine is slow, and this test is not about timeouts.
    terminal.variables = {**terminal.variables, "RPC_TIMEOUT_S": "60"}
    command = command.replace(".run/", f"{suite.servers.wanted}/")
    printed = terminal.run(f"PATH=.venv/bin:$PATH\n{command} <{typed} 2>/dev/null")
    lines = [line.replace(">>> ", "") for line in printed.splitlines()]
    expected = [each.want for each in examples if each.want]
    assert [f"{line}\n" for line in lines if line] == expected
