"""No text of the project has a forbidden idiom, and the search for idioms finds them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev import language
from dev.broker import CHECKOUT

Search = Callable[[str, str], list[tuple[int, str]]]

FILES = language.checkout_files()
EXAMPLES = [
    pytest.param(idiom, sentence, sentence in idiom.bad, id=f"{idiom.name}: {sentence}")
    for idiom in language.idioms()
    for sentence in (*idiom.bad, *idiom.good)
]


@pytest.fixture(scope="module")
def all_findings() -> list[language.Finding]:
    """Return the findings in the whole checkout, allowed ones too."""
    return [finding for path in FILES for finding in language.search_file(path)]


def top(path: str) -> str:
    """Return the folder or file at the top of the checkout."""
    return path.split("/")[0]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Search]:
    """Search a file with this name and content: the lines and names of the idioms."""
    monkeypatch.setattr(language, "CHECKOUT", tmp_path)

    def run(name: str, content: str) -> list[tuple[int, str]]:
        (tmp_path / name).write_text(content)
        found = sorted(language.search_file(name), key=lambda finding: finding.line)
        return [(finding.line, finding.idiom.name) for finding in found]

    return run


@pytest.mark.parametrize("folder", sorted({top(path) for path in FILES}))
def test_no_forbidden_idiom(folder: str, all_findings: list[language.Finding]) -> None:
    findings = [
        finding
        for finding in all_findings
        if top(finding.path) == folder
        and not any(entry.covers(finding) for entry in language.allowed())
    ]

    assert not findings, "\n" + "\n".join(map(str, findings))


@pytest.mark.parametrize(("idiom", "sentence", "is_bad"), EXAMPLES)
def test_examples(idiom: language.Idiom, sentence: str, is_bad: bool) -> None:
    words = sentence
    if sentence.startswith("test_"):
        words = sentence.removeprefix("test_").replace("_", " ")

    found = [
        finding.idiom for finding in language.search_text(language.Text(words), "")
    ]

    assert (idiom in found) == is_bad


@pytest.mark.parametrize("idiom", language.idioms(), ids=lambda idiom: idiom.name)
def test_each_idiom_has_examples_and_advice(idiom: language.Idiom) -> None:
    assert idiom.bad
    assert idiom.good
    assert idiom.instead


def test_names_of_idioms_are_unique() -> None:
    names = [idiom.name for idiom in language.idioms()]

    assert len(names) == len(set(names))


def test_each_allowlist_entry_has_a_reason_and_a_finding(
    all_findings: list[language.Finding],
) -> None:
    stale = [
        entry
        for entry in language.allowed()
        if not entry.reason or not any(map(entry.covers, all_findings))
    ]

    assert not stale


def test_an_allowlist_entry_covers_its_file_idiom_and_text_only(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    search("a.md", "The broker is away.\nAn hour is away.\n")
    allowed = {"idiom": "away", "text": "An hour is away", "reason": "an example"}
    entry = language.Allowed(path="*.md", **allowed)
    monkeypatch.setattr(language, "allowed", lambda: (entry,))
    other = language.Allowed(path="*.py", **allowed)

    (finding,) = language.search(["a.md"])

    assert finding.line == 1
    assert not entry.covers(finding)
    assert not any(map(other.covers, language.search_file("a.md")))


@pytest.mark.parametrize(
    "glob", [*language.EXCLUDED, *language.LATER, *language.GENERATED]
)
def test_each_exception_names_a_file(glob: str) -> None:
    tracked = subprocess.check_output(["git", "ls-files"], cwd=CHECKOUT, text=True)

    assert any(language.fnmatchcase(path, glob) for path in tracked.splitlines())


@pytest.mark.parametrize(
    "path",
    [
        "Makefile",
        "Dockerfile",
        "compose.yaml",
        "config.yaml",
        "charts/shop/values.yaml",
        "charts/shop/templates/NOTES.txt",
        ".github/workflows/ci.yml",
        "dev/install.sh",
        "chassis/rpc.py",
        "tests/test_currencies.py",
        "notifications/letters/en/grief.txt",
        "docs/a-new-document.md",
    ],
)
def test_searched_files(path: str) -> None:
    assert language.is_searched(path)


@pytest.mark.parametrize("path", ["docs/README.ru.md", "docs/batching.md", "uv.lock"])
def test_files_that_are_not_searched(path: str) -> None:
    assert not language.is_searched(path)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('"""Return the queue.\n\nIt is away.\n"""\n', 3),
        ("x = 1\n# The broker is\n# away.\n", 3),
        ("x = 1  # it is away\n", 1),
        ('x = f"{1} is away"\n', 1),
        ('x = f"{y("it is away")}"\n'.replace('y("', "y('").replace('")}', "')}"), 1),
        ('x = (\n    "the broker "\n    "is away"\n)\n', 2),
        ('x = "broker_away"\n', 1),
        ("\ndef test_broker_is_away():\n    pass\n", 2),
    ],
)
def test_python_text_is_searched(search: Search, source: str, line: int) -> None:
    assert search("a.py", source) == [(line, "away")]


@pytest.mark.parametrize(
    "source",
    [
        '"""Return the `away` result."""\n',
        'x = "away"\n',
        "is_away = away\n",
        "def away():\n    pass\n",
    ],
)
def test_python_code_is_not_searched(search: Search, source: str) -> None:
    assert search("a.py", source) == []


def test_comments_apart_are_searched_apart(search: Search) -> None:
    source = "x = 1  # no more\ny = 2  # and it is fine\n"

    assert search("a.py", source) == [(1, "no more")]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.md", "# Title\n\nThe broker\nis away.\n", 4),
        ("a.sh", "set -e\n# It is away.\n", 2),
        ("Makefile", "up:  ## start what\n\techo the broker is away\n", 2),
        ("a.yaml", "# The broker is\n# away.\nkey: 1\n", 2),
        ("a.tpl", "{{- /* It is away. */ -}}\n", 1),
        ("a.sql", "-- It is away.\nSELECT 1;\n", 1),
    ],
)
def test_other_files_are_searched(
    search: Search, name: str, content: str, line: int
) -> None:
    assert search(name, content) == [(line, "away")]


def test_an_idiom_may_cross_a_line_but_not_a_list_item(search: Search) -> None:
    assert search("a.md", "It is put\naside here.\n") == [(2, "put aside")]
    assert search("b.md", "- This is\n- no path\n") == []
    assert search("c.md", "This is\nno path.\n") == [(1, "is no <noun>")]


def test_links_paths_and_quoted_words_are_not_searched(search: Search) -> None:
    content = 'See [it](0008-nobody-takes.md), docs/nobody.md and the value "nobody".\n'

    assert search("a.md", content) == []


def test_the_command_ends_with_0_without_a_finding() -> None:
    command = [sys.executable, "-m", "dev.language", "dev/language.py"]

    ended = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stdout) == (0, "")


def test_main_prints_file_line_idiom_and_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).relative_to(CHECKOUT)
    finding = next(language.search_text(language.Text("It is away."), str(path)))
    monkeypatch.setattr(language, "search", lambda files: [finding])

    assert language.main([str(path)]) == 1
    assert capsys.readouterr().out == (f"{path}:1: away: It is away.  [unavailable]\n")
