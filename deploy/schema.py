#!/usr/bin/env python3
"""Holds manifests to the schemas of Kubernetes' own API: no unknown field, no wrong type, nothing missing.

The schemas come from the package kubernetes-validate, for the oldest and the newest version of Kubernetes that the chart is for.
"""

import json
import pathlib
import sys

# Where tools.sh puts the two packages.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "target" / "tools" / "python"))
VERSIONS = ("1.26.0", "1.34.0")
# Of operators that are switched on by hand; their schemas are their own.
FOREIGN = ("cert-manager.io/", "monitoring.coreos.com/")


def main():
    """Says what is wrong, and fails then."""
    import kubernetes_validate
    import yaml

    problems, checked = [], 0
    for name in sys.argv[1:]:
        for document in yaml.safe_load_all(pathlib.Path(name).read_text()):
            if not document or document["apiVersion"].startswith(FOREIGN):
                continue
            checked += 1
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    where = "/".join(map(str, error.path))
                    problems.append(f"{name}: {document['kind']} {document['metadata']['name']} {where}: {error.message[:300]}")
    print(json.dumps({"checked": checked, "problems": problems}, indent=2) if problems else f"schema: {checked} objects are valid")
    if problems or not checked:
        sys.exit(1)


if __name__ == "__main__":
    main()
