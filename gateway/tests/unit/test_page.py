"""The page's modules: their texts exist in both languages, and they use nothing unsafe."""

import re
from pathlib import Path

import pytest

from gateway.documents import STATIC

PAGE = STATIC / "page"
TEXTS = (PAGE / "texts.js").read_text()
MODULES = sorted(
    path
    for path in PAGE.glob("*.js")
    if path.name not in ("texts.js", "standalone.module.js")
)


def texts(language: str) -> dict[str, str]:
    """Return the source of each text by its key."""
    block = TEXTS.partition(f"const {language} = {{\n")[2].partition("\n};")[0]
    entries = re.findall(r'^  "([a-z.-]+)": (.+),$', block, re.MULTILINE)
    assert len(entries) == len(block.splitlines()) - block.count("\n\n")
    return dict(entries)


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    english, russian = texts("EN"), texts("RU")
    assert english.keys() == russian.keys()
    assert len(english) > 50
    for key, text in english.items():
        assert placeholders(text) == placeholders(russian[key]), key


def test_each_text_is_used_and_each_used_text_exists() -> None:
    source = "".join(path.read_text() for path in MODULES)
    keys = texts("EN").keys()
    used = set(re.findall(r'\bt\("([^"]+)"', source))
    # Keys that are put together, as `status.${status}`, and those that a variable names.
    prefixes = tuple(re.findall(r"\b(?:t|t\.has)\(`([a-z.-]+)\$\{", source))
    named = set(re.findall(r'"([a-z.-]+)"', source))
    assert used <= keys
    assert {key for key in keys - named if not key.startswith(prefixes)} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_inserts_no_html_and_runs_no_text(path: Path) -> None:
    """The policy blocks some of these too."""
    unsafe = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
    )
    assert not re.search(unsafe, path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_keeps_the_token_out_of_addresses_and_of_local_storage(
    path: Path,
) -> None:
    source = path.read_text()
    assert not re.search(r"[?&](access_)?token=", source)
    for stored in re.findall(r'localStorage\.\w+\("([^"]+)"', source):
        assert stored in ("language", "theme")
