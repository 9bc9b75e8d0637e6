"""The terminal in which the documents' blocks are run."""

import os

import pytest

from tests.docs.conftest import Terminal


@pytest.mark.parametrize(
    "text",
    ["false\ntrue", "false | cat\ntrue", "f() { false; true; }\nf\ntrue", "false"],
)
def test_each_command_of_a_block_counts(text: str) -> None:
    with pytest.raises(AssertionError):
        Terminal(dict(os.environ)).run(text)


def test_variables_and_functions_hold_for_the_next_block() -> None:
    terminal = Terminal(dict(os.environ))
    assert terminal.run("ONE='1\n2'\ntwo() { echo \"$ONE\"; }\nfalse || true\n") == ""
    assert terminal.run("two") == "1\n2\n"
