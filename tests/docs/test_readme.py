"""README's story with curl and its session in `nameko shell`, word by word, beside a running suite."""

import doctest
import json

import pytest

from tests.contracts import alike
from tests.docs.markdown import ROOT, blocks, commands

BLOCKS = blocks(ROOT / "README.md")
[STORY] = [block.text for block in BLOCKS if block.language == "bash"]
[SAMPLE] = [
    json.loads(block.text)
    for block in blocks(ROOT / "docs" / "api.md")
    if block.language == "json"
]
[SESSION] = [block for block in BLOCKS if ">>> " in block.text]
DEFAULT = "127.0.0.1:8000"


def test_the_story_with_curl_is_as_its_comments_say(suite, terminal) -> None:
    assert STORY.count(DEFAULT) == 1
    told = terminal.run(STORY.replace(DEFAULT, suite.url.removeprefix("http://")))
    before, deposit, paid, rejected, after, letters = map(json.loads, told.splitlines())
    assert (before["balance"], after["balance"]) == ("0.00", "69.90")
    assert deposit["status"] == "done"
    assert alike(paid) == alike(SAMPLE)
    assert list(paid) == list(SAMPLE)
    assert (rejected["status"], rejected["reason"]) == (
        "rejected",
        "insufficient-funds",
    )
    assert [letter["kind"] for letter in letters["items"]] == ["grief", "happiness"]


@pytest.mark.parametrize(
    "command",
    ["\n".join(commands(SESSION)), "make --no-print-directory shell"],
    ids=["nameko", "make"],
)
def test_the_session_in_nameko_shell_answers_as_it_says(
    suite, terminal, tmp_path, command
) -> None:
    examples = doctest.DocTestParser().get_examples(SESSION.text)
    typed = tmp_path / "typed"
    typed.write_text("".join(example.source for example in examples))
    # A busy machine takes its time; how long a call may take is not the subject.
    terminal.variables = {**terminal.variables, "RPC_TIMEOUT_S": "60"}
    command = command.replace(".run/", f"{suite.servers.wanted}/")
    told = terminal.run(f"PATH=.venv/bin:$PATH\n{command} <{typed} 2>/dev/null")
    answers = [line.replace(">>> ", "") for line in told.splitlines()]
    assert [f"{answer}\n" for answer in answers if answer] == [
        each.want for each in examples if each.want
    ]
