"""All files follow .editorconfig, which agrees with ruff."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from fnmatch import fnmatch

from tests.docs.markdown import ROOT

Settings = dict[str, str]
PREAMBLE = "preamble"


def sections() -> dict[str, Settings]:
    """Return the settings of .editorconfig by pattern, in their order."""
    parser = ConfigParser()
    parser.read_string(f"[{PREAMBLE}]\n" + (ROOT / ".editorconfig").read_text())
    return {
        pattern: dict(parser[pattern])
        for pattern in parser.sections()
        if pattern != PREAMBLE
    }


def settings_of(name: str, found: dict[str, Settings]) -> Settings:
    """Return the settings of a file.

    A pattern with a slash matches its path, other patterns match its name.
    """
    settings: Settings = {}
    for braces, values in found.items():
        for pattern in braces.strip("{}").split(","):
            matched = name if "/" in pattern else name.rpartition("/")[2]
            if fnmatch(matched, pattern):
                settings |= values
    return settings


TRAILING_SPACE = re.compile(rb"[ \t]$", re.MULTILINE)
LEADING_TAB = re.compile(rb"^ *\t", re.MULTILINE)


def faults(text: bytes, settings: Settings) -> Iterator[str]:
    """Yield the settings that a file's content does not follow."""
    is_utf8 = text == text.decode(errors="replace").encode()
    if settings["charset"] == "utf-8" and not is_utf8:
        yield "charset"
    if settings["end_of_line"] == "lf" and b"\r" in text:
        yield "end_of_line"
    if settings["insert_final_newline"] == "true" and text and not text.endswith(b"\n"):
        yield "insert_final_newline"
    if settings["trim_trailing_whitespace"] == "true" and TRAILING_SPACE.search(text):
        yield "trim_trailing_whitespace"
    if settings["indent_style"] == "space" and LEADING_TAB.search(text):
        yield "indent_style"


def test_all_files_follow_it() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    found = sections()
    wrong = {
        name: list(faults((ROOT / name).read_bytes(), settings_of(name, found)))
        for name in names
    }
    assert {name: each for name, each in wrong.items() if each} == {}
    assert len(wrong) > 500


def test_it_agrees_with_ruff() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    python = settings_of("billing/domain.py", sections())
    assert python["max_line_length"] == str(ruff["line-length"])
    assert python["indent_size"] == str(ruff.get("indent-width", 4))


def test_each_fault_is_found() -> None:
    python = settings_of("a/b.py", sections())
    makefile = settings_of("Makefile", sections())
    vendored = settings_of("gateway/static/docs/swagger-ui.css", sections())
    assert list(faults(b"\tx\r\xff ", python)) == [
        "charset",
        "end_of_line",
        "insert_final_newline",
        "trim_trailing_whitespace",
        "indent_style",
    ]
    assert list(faults(b"a:\n\tb\n", makefile)) == []
    assert vendored["charset"] == "unset"
