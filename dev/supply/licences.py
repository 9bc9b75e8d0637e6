"""Write docs/licences.md: the licence of each locked package, and reasons for copyleft ones.

usage: python -m dev.supply.licences
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from dev.chart.tools import ROOT
from dev.failure import Failure

PAGE = ROOT / "docs" / "licences.md"
PRODUCT = ROOT / "requirements" / "product.lock"
DEVELOPMENT = ROOT / "requirements" / "dev.lock"
NPM = {
    "postman": "newman, which runs the scenario",
    "dev/browser": "axe-core, which checks the page",
    "dev/specs": "the parser of AsyncAPI",
    "dev/diagrams": "Mermaid, which draws the pictures",
}

# SPDX identifiers of licences that only require to keep a notice.
PERMISSIVE = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "LicenseRef-Public-Domain",
    "LicenseRef-Repoze",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "PSF-2.0",
    "Python-2.0",
    "Unlicense",
    "WTFPL",
    "Zlib",
}
# Licences that require more. Each package needs a reason.
COPYLEFT = {
    "LGPL-3.0-or-later": {
        "psycopg2-binary": (
            "used unmodified, as a library that can be replaced; its source is public. "
            "An exception permits linking with OpenSSL"
        ),
    },
    "MPL-2.0": {
        "axe-core": "only in tests",
        "certifi": "used unmodified; the licence covers only its own files",
        "hypothesis": "only in tests",
        "pathspec": "only in linters",
    },
    "CC-BY-4.0 AND OFL-1.1 AND MIT": {
        "@fortawesome/fontawesome-free": "only draws pictures; the pictures contain no font",
    },
    "EPL-2.0": {"elkjs": "only draws pictures"},
}
# Other names that packages use, and the identifier of the text in their LICENSE file.
IDENTIFIERS = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD-derived (http://www.repoze.org/LICENSE.txt)": "LicenseRef-Repoze",
    "LGPL with exceptions": "LGPL-3.0-or-later",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
    "MIT license": "MIT",
    "Public Domain": "LicenseRef-Public-Domain",
}
# Packages that declare no licence, or only "BSD". A person has read their LICENSE file.
READ = {
    "amqp": "BSD-3-Clause",
    "contourpy": "BSD-3-Clause",
    "cycler": "BSD-3-Clause",
    "httpntlm": "MIT",
    "khroma": "MIT",
    "kiwisolver": "BSD-3-Clause",
    "mock": "BSD-2-Clause",
    "stack-trace": "MIT",
    "vine": "BSD-3-Clause",
}

HEAD = """\
# Licences

The licences of all locked packages, as SPDX expressions, written by `make licences`. It fails if
[dev/supply/licences.py](../dev/supply/licences.py) does not allow a licence. Permissive licences
are allowed. Copyleft licences are allowed for named packages, with a reason. The suite itself is
[Apache-2.0](../LICENSE).

Not listed:

- packages for Windows
- checkov and the tools of dev/supply, which no image contains
- libraries inside wheels, such as libpq and OpenSSL in psycopg2-binary
- programs that the suite needs: Python, PostgreSQL, RabbitMQ, Node.js

Swagger UI, htm and Preact are bundled ([NOTICE](../NOTICE)).
"""


def locked(lock: Path) -> list[str]:
    """Return the names of the packages that a lock file pins for Linux."""
    lines = re.findall(r"^([\w.-]+)==[^ ]+(.*)$", lock.read_text(), re.MULTILINE)
    return sorted({name for name, marker in lines if "'win32'" not in marker})


def licence_of(name: str) -> str:
    """Return the licence of an installed package, as an allowed SPDX expression."""
    metadata = distribution(name).metadata
    fields = ("License-Expression", "License", "Classifier")
    texts = [text for field in fields for text in metadata.get_all(field, [])]
    declared = [
        text for text in texts if "::" not in text or text.startswith("License ::")
    ]
    return allowed(name, declared)


def allowed(name: str, declared: list[str]) -> str:
    """Return the first declared licence that is allowed for the package.

    Raises Failure if none is allowed.
    """
    for text in [READ.get(name, ""), *declared]:
        expression = IDENTIFIERS.get(text, text).strip("()")
        if is_permissive(expression) or name in COPYLEFT.get(expression, {}):
            return expression
    raise Failure(f"{name} has no allowed licence: {' | '.join(declared)[:200]}")


def is_permissive(expression: str) -> bool:
    """Return whether an alternative of an SPDX expression has only permissive licences."""
    alternatives = (each.split(" AND ") for each in expression.split(" OR "))
    return any(PERMISSIVE.issuperset(each) for each in alternatives)


def npm_licences(folder: str) -> Iterator[tuple[str, str]]:
    """Yield name and licence of each package in a package-lock.json."""
    packages = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]
    for path, package in packages.items():
        if name := path.rpartition("node_modules/")[2]:
            yield name, allowed(name, [package.get("license", "")])


def page() -> str:
    """Return the text of docs/licences.md."""
    product = locked(PRODUCT)
    lines = [HEAD, "## In the images", "", *_table(product)]
    further = [name for name in locked(DEVELOPMENT) if name not in product]
    lines += ["", "## In tests and tools", "", *_table(further)]
    lines += ["", "## From npm, in tools", ""]
    lines += ["| lock file | licences |", "| --- | --- |"]
    for folder, use in NPM.items():
        counts = Counter(licence for _, licence in npm_licences(folder))
        listed = [f"{count} {licence}" for licence, count in sorted(counts.items())]
        lines.append(f"| {folder}: {use} | {', '.join(listed)} |")
    lines += ["", "## Copyleft", ""]
    lines += ["| package | licence | reason |", "| --- | --- | --- |"]
    for licence, reasons in COPYLEFT.items():
        lines += [
            f"| {name} | {licence} | {reason} |" for name, reason in reasons.items()
        ]
    return "\n".join(lines) + "\n"


def _table(names: list[str]) -> list[str]:
    return [
        "| package | licence |",
        "| --- | --- |",
        *(f"| {name} | {licence_of(name)} |" for name in names),
    ]


if __name__ == "__main__":
    try:
        PAGE.write_text(page())
    except Failure as failure:
        sys.exit(str(failure))
