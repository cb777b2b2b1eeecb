"""Checks an SBOM of scripts/release.sh: against the schema of CycloneDX, and that each crate has a licence.

Usage: check_sbom.py FILE
"""

import json
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def main(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if fault := JsonStrictValidator(SchemaVersion.V1_5).validate_str(text):
        sys.exit(f"{path}: not a CycloneDX 1.5 document: {fault}")
    bare = [part["name"] for part in json.loads(text)["components"] if not part.get("licenses")]
    if bare:
        sys.exit(f"{path}: no licence is known of {', '.join(bare)}")
    local = [word for word in text.split('"') if word.startswith("path+file:") and not word.startswith("path+file:///adit#")]
    if local:
        sys.exit(f"{path}: names a path of this machine: {local[0]}")


main(*sys.argv[1:])
