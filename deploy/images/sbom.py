#!/usr/bin/env python3
"""Prints what an image is made of as SPDX 2.3: the crates of its programs, and the Debian packages of its libraries.

The crates are those that cargo compiles into a program for this platform, with the versions and checksums of Cargo.lock.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import tomllib
import uuid

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = {"podwasm": "podwasm", "podwasm-exporter": "podwasm-metrics-exporter", "podwasm-scaler": "podwasm-metrics-exporter"}
# What every program loads.
LIBRARIES = ("libc6", "libgcc-s1")
# What the pins hold beside the libraries of the bundles: the tools that made them.
TOOLS = ("binutils-", "gcc-", "patchelf", "rustc", "libc6-dev", "libgcc-14-dev", "libwasmedge-dev")


def crates(package):
    """(name, version, licence) of what cargo compiles into a package's programs."""
    tree = ["cargo", "tree", "--locked", "--package", package, "--edges", "normal", "--prefix", "none", "--no-dedupe"]
    if package == "podwasm-engine":
        tree += ["--features", "wasmedge"]
    lines = subprocess.run([*tree, "--format", "{p}\t{l}"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    found = set()
    for line in lines.splitlines():
        name, licence = line.split("\t")
        found.add((*name.split()[:2], licence))
    return sorted((name, version.lstrip("v"), licence) for name, version, licence in found)


def checksums():
    """SHA-256 of each crate's archive, by (name, version); those of this repository have none."""
    locked = tomllib.loads((REPOSITORY / "Cargo.lock").read_text())["package"]
    return {(crate["name"], crate["version"]): crate.get("checksum") for crate in locked}


def installed(dpkg):
    """(name, version) of the libraries as they are installed in a root folder."""
    query = ["dpkg-query", f"--admindir={dpkg}", "--show", "--showformat=${Package} ${Version}\n", *LIBRARIES]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    return [tuple(line.split()) for line in lines.splitlines()]


def pinned(pins):
    """(name, version) of the packages that a bundle's libraries come from."""
    lines = [line.split() for line in pins.read_text().splitlines() if line and not line.startswith("#")]
    return [(name, version) for name, version, _ in lines if not name.startswith(TOOLS)]


def package(name, version, kind, licence, checksum=None):
    """An SPDX package that is found again by its purl."""
    purl = f"pkg:cargo/{name}@{version}" if kind == "cargo" else f"pkg:deb/debian/{name}@{version}?distro=trixie"
    identifier = "".join(character if character.isalnum() else "-" for character in f"{kind}-{name}-{version}")
    checked = {"checksums": [{"algorithm": "SHA256", "checksumValue": checksum}]} if checksum else {}
    return {
        **checked,
        "SPDXID": f"SPDXRef-{identifier}",
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence.replace("/", " OR ") or "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}],
    }


def main():
    """Prints the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crate", action="append", required=True, help="the image's program, then others in it")
    parser.add_argument("--version", required=True)
    parser.add_argument("--created", type=int, required=True, help="seconds since 1970")
    parser.add_argument("--dpkg", help="dpkg's folder in the root that libraries come from")
    parser.add_argument("--bundle", type=pathlib.Path, help="the pins of the bundles in the image")
    flags = parser.parse_args()

    image = flags.crate[0]
    debian = set(installed(flags.dpkg) if flags.dpkg else []) | set(pinned(flags.bundle) if flags.bundle else [])
    cargo = {crate for name in flags.crate for crate in crates(PACKAGES.get(name, name))}
    locked = checksums()
    # A crate that is not locked is an error.
    packages = [package(*crate[:2], "cargo", crate[2], locked[crate[:2]]) for crate in sorted(cargo)]
    packages += [package(*library, "deb", "") for library in sorted(debian)]
    content = json.dumps([flags.version, image, packages], sort_keys=True)
    top = {
        "SPDXID": "SPDXRef-image",
        "name": image,
        "versionInfo": flags.version,
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "Apache-2.0",
        "copyrightText": "NOASSERTION",
    }
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")]
    relations += [("SPDXRef-image", "CONTAINS", part["SPDXID"]) for part in packages]
    created = datetime.datetime.fromtimestamp(flags.created, datetime.timezone.utc)
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{image}-{flags.version}",
        "documentNamespace": f"https://github.com/podwasm/podwasm/sbom/{image}-{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: podwasm-sbom"]},
        "packages": [top, *packages],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other} for one, kind, other in relations
        ],
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
