"""Licences, the bill of materials, and pip-audit, which passes only if its source works."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from dev.failure import Failure
from dev.supply import licences, sbom
from dev.supply.licences import (
    COPYLEFT,
    DEVELOPMENT,
    NPM,
    PAGE,
    PRODUCT,
    allowed,
    locked,
    npm_licences,
    page,
)

SCRIPT = licences.ROOT / "dev" / "supply" / "pip_audit.sh"
FOUND = "Found 2 known vulnerabilities in 1 package"
NONE = "No known vulnerabilities found"
# A fake pip-audit: exit code and output for the probe of the source, and for lock files.
PIP_AUDIT = """\
#!/bin/bash
case "$*" in
  *--no-deps*) echo "{probe[1]}"; exit {probe[0]} ;;
  *--strict*--require-hashes*.lock) echo "{locks[1]}"; exit {locks[0]} ;;
  *) exit 3 ;;
esac
"""


def test_the_page_has_the_licences_of_all_locked_packages() -> None:
    assert PAGE.read_text() == page(), "run `make licences`"


def test_packages_for_windows_are_not_listed() -> None:
    assert "tzdata" not in locked(PRODUCT)
    assert {"nameko", "psycopg2-binary", "pyyaml"} <= set(locked(PRODUCT))


@pytest.mark.parametrize(
    ("name", "declared", "licence"),
    [
        ("a", ["", "MIT"], "MIT"),
        ("a", ["UNKNOWN", "License :: OSI Approved :: MIT License"], "MIT"),
        ("a", ["(GPL-2.0 OR MIT)"], "GPL-2.0 OR MIT"),
        ("a", ["MIT AND Zlib"], "MIT AND Zlib"),
        ("certifi", ["MPL-2.0"], "MPL-2.0"),
        ("vine", ["BSD"], "BSD-3-Clause"),
    ],
)
def test_a_licence_is_read_from_package_metadata(name, declared, licence) -> None:
    assert allowed(name, declared) == licence


@pytest.mark.parametrize(
    "declared", [[], ["BSD"], ["GPL-3.0-only"], ["MPL-2.0"], ["MIT AND GPL-2.0"]]
)
def test_an_unknown_or_copyleft_licence_is_refused(declared: list[str]) -> None:
    with pytest.raises(Failure, match="a has no allowed licence"):
        allowed("a", declared)


def test_each_exception_names_a_locked_package() -> None:
    python = {*locked(PRODUCT), *locked(DEVELOPMENT)}
    there = python | {name for folder in NPM for name, _ in npm_licences(folder)}
    named = {name for reasons in COPYLEFT.values() for name in reasons}
    assert (named | licences.READ.keys()) - there == set()


def component(name: str, **fields: Any) -> dict[str, Any]:
    return {"bom-ref": name, "name": name, "purl": f"pkg:pypi/{name}", **fields}


def test_a_bill_has_hashes_licences_and_product_packages_only(
    monkeypatch,
) -> None:
    monkeypatch.setattr(sbom, "locked", lambda _: ["marshmallow", "psycopg2-binary"])
    hashes = [{"type": "distribution", "hashes": []}]
    installed = {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": [
            component(name) for name in ("marshmallow", "psycopg2_binary", "pytest")
        ],
        "dependencies": [
            {"ref": "root", "dependsOn": ["marshmallow", "pytest"]},
            {"ref": "pytest"},
        ],
    }
    names = ("marshmallow", "psycopg2-binary")
    pinned = {
        "components": [component(name, externalReferences=hashes) for name in names]
    }
    bill = sbom.merged(installed, pinned)
    python, browser = bill["components"][:2], bill["components"][2:]
    assert [each["name"] for each in python] == ["marshmallow", "psycopg2_binary"]
    assert [each["licenses"][0]["expression"] for each in python] == [
        "MIT",
        "LGPL-3.0-or-later",
    ]
    assert all(each["externalReferences"] == hashes for each in python)
    assert [each["name"] for each in browser] == ["swagger-ui-dist", "htm", "preact"]
    assert all(file["hashes"] for each in browser for file in each["components"])
    assert bill["dependencies"] == [
        {
            "ref": "root",
            "dependsOn": ["marshmallow", *(each["purl"] for each in browser)],
        }
    ]


def test_a_missing_package_is_reported() -> None:
    with pytest.raises(Failure, match="alembic, amqp"):
        sbom.merged({"components": []}, {"components": []})


@pytest.mark.parametrize(
    ("probe", "locks", "code", "said"),
    [
        (
            (1, "ERROR: not found on the index"),
            (0, NONE),
            2,
            "no source of advisories was reached",
        ),
        ((0, NONE), (0, NONE), 2, "its response proves nothing"),
        ((1, FOUND), (0, NONE), 0, NONE),
        ((1, FOUND), (1, FOUND), 1, FOUND),
    ],
)
def test_pip_audit_passes_only_if_its_source_works(
    tmp_path: Path, probe: tuple[int, str], locks: tuple[int, str], code: int, said: str
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(PIP_AUDIT.format(probe=probe, locks=locks))
    program.chmod(0o755)
    done = subprocess.run(
        [SCRIPT, program], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr
