"""Write the bill of materials of the product, sbom.cdx.json, in CycloneDX's JSON.

It contains the npm packages whose files browsers get, and the locked Python packages, which all
images share. cyclonedx-py reads the Python packages and their dependencies from .venv, and their
hashes from the lock file. Their licences are those of docs/licences.md. The library of cyclonedx-py
validates the result.

usage: python -m dev.supply.sbom
"""

import json
import re
import subprocess
import sys
from typing import Any

from dev.chart.tools import ROOT
from dev.environment import TOOLS
from dev.failure import Failure
from dev.specs.vendored import PACKAGES, Package
from dev.supply.licences import PRODUCT, licence_of, locked

BOM = ROOT / "sbom.cdx.json"
BIN = TOOLS / "supply" / "bin"
VALIDATE = """\
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()))
"""

Piece = dict[str, Any]


def merged(installed: Piece, pinned: Piece) -> Piece:
    """Return the bill of an environment, with the product's packages only and with their hashes.

    `pinned` is the bill of the lock file, which has the hashes.
    """
    product = set(locked(PRODUCT))
    hashes = {_name(each): each["externalReferences"] for each in pinned["components"]}
    kept = [each for each in installed["components"] if _name(each) in product]
    if missing := product - {_name(each) for each in kept}:
        raise Failure(f".venv lacks {', '.join(sorted(missing))}: run `make install`")
    components = [_with_licence(each, hashes[_name(each)]) for each in kept]
    root = installed["metadata"]["component"]["bom-ref"]
    refs = {root, *(each["bom-ref"] for each in components)}
    dependencies = [
        {
            "ref": each["ref"],
            "dependsOn": [ref for ref in each.get("dependsOn", []) if ref in refs],
        }
        for each in installed["dependencies"]
        if each["ref"] in refs
    ]
    browser = [vendored(package) for package in PACKAGES]
    for each in dependencies:
        if each["ref"] == root:
            each["dependsOn"] += [component["bom-ref"] for component in browser]
    return {
        **installed,
        "components": [*components, *browser],
        "dependencies": dependencies,
    }


def _with_licence(component: Piece, references: list[Piece]) -> Piece:
    """Return a component with its licence and with more references."""
    expression = licence_of(_name(component))
    licence = {"expression": expression, "acknowledgement": "concluded"}
    return {
        **component,
        "licenses": [licence],
        "externalReferences": [*component.get("externalReferences", []), *references],
    }


def vendored(package: Package) -> Piece:
    """Return the component of an npm package, with the hash of each of its files in the gateway."""
    purl = f"pkg:npm/{package.name}@{package.version}"
    files = [
        {
            "type": "file",
            "name": file.name,
            "hashes": [{"alg": "SHA-256", "content": file.sha256}],
        }
        for file in package.files
    ]
    return {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "licenses": [{"expression": package.licence, "acknowledgement": "declared"}],
        "purl": purl,
        "components": files,
    }


def validate(bom: str) -> None:
    """Raise Failure if the text breaks CycloneDX's schema."""
    done = _run("python", "-W", "ignore", "-c", VALIDATE, text=bom)
    if done.returncode:
        errors = done.stderr.strip()[:300]
        raise Failure(f"the bill of materials breaks CycloneDX's schema: {errors}")


def _name(component: Piece) -> str:
    """Return a package's name as in a lock file: lower case, with hyphens."""
    return re.sub(r"[-_.]+", "-", component["name"]).lower()


def _cyclonedx(*arguments: str) -> Piece:
    options = ("--pyproject", "pyproject.toml", "--output-reproducible")
    done = _run("cyclonedx-py", *arguments, *options)
    if done.returncode:
        raise Failure(f"cyclonedx-py failed: {done.stderr.strip()[-500:]}")
    bom: Piece = json.loads(done.stdout)
    return bom


def _run(
    program: str, *arguments: str, text: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / program), *arguments]
    return subprocess.run(
        command, cwd=ROOT, input=text, capture_output=True, text=True, check=False
    )


def main() -> None:
    installed = _cyclonedx("environment", ".venv")
    pinned = _cyclonedx("requirements", str(PRODUCT.relative_to(ROOT)))
    bom = merged(installed, pinned)
    text = json.dumps(bom, indent=2) + "\n"
    validate(text)
    BOM.write_text(text)
    print(f"{BOM.name}: {len(bom['components'])} components")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(str(failure))
