"""The terminal that runs the documents' blocks."""

import os

import pytest

from tests.docs.conftest import Terminal


@pytest.mark.parametrize(
    "text",
    ["false\ntrue", "false | cat\ntrue", "f() { false; true; }\nf\ntrue", "false"],
)
def test_each_failing_command_fails_its_block(text: str) -> None:
    with pytest.raises(AssertionError):
        Terminal(dict(os.environ)).run(text)


def test_the_next_block_has_the_variables_and_functions() -> None:
    terminal = Terminal(dict(os.environ))
    assert terminal.run("ONE='1\n2'\ntwo() { echo \"$ONE\"; }\nfalse || true\n") == ""
    assert terminal.run("two") == "1\n2\n"
