"""The parts that effbench is made of and depends on, as a bill of materials (CycloneDX 1.5), and the licences of all.

python tools/supply.py agent           the archive that runs on devices: every file of it, with its hash
python tools/supply.py environment     the installed distributions, with versions and licences
python tools/supply.py hashes          the constraints with the hash of each file that pip would take here
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def agent_bill() -> dict[str, Any]:
    """Return the bill of the agent's archive."""
    from effbench import __version__
    from effbench.profiles.transports.zipapp import agent

    archive = agent()
    with zipfile.ZipFile(io.BytesIO(archive.data)) as opened:
        files = [_file(name, opened.read(name)) for name in opened.namelist()]
    subject = {"type": "application", "name": "effbench-agent", "version": __version__}
    return _bill({**subject, "hashes": [_sha256(archive.data)], "licenses": [_license("Apache-2.0")]}, files)


def environment_bill() -> dict[str, Any]:
    """Return the bill of the installed distributions."""
    packages = {item.metadata["Name"].lower(): item for item in distributions()}
    components = [_package(packages[name]) for name in sorted(packages)]
    return _bill({"type": "application", "name": "environment"}, components)


def _bill(subject: dict[str, Any], components: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}
    return {**head, "metadata": {"component": subject}, "components": components}


def _file(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "name": name, "hashes": [_sha256(content)]}


def _sha256(content: bytes) -> dict[str, str]:
    return {"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}


def _package(item: Distribution) -> dict[str, Any]:
    name, version = item.metadata["Name"], item.version
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    return {"type": "library", "name": name, "version": version, "purl": purl, "licenses": [_license(license_of(item))]}


def _license(text: str) -> dict[str, Any]:
    return {"license": {"name": text}}


def license_of(item: Distribution) -> str:
    """Return the licence that a distribution declares: the expression, else its classifiers, else the first line."""
    classified = [
        text.rpartition(" :: ")[2] for text in item.metadata.get_all("Classifier", ()) if "License ::" in text
    ]
    free = next(iter(_first(item, "License").strip().splitlines()), "")
    return _first(item, "License-Expression") or ", ".join(classified) or free[:80] or "not declared"


def _first(item: Distribution, field: str) -> str:
    return next(iter(item.metadata.get_all(field) or ()), "")


def hashed(report: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each file of a report of pip; a file without a hash has a comment in its place."""
    for item in report["install"]:
        name = f"{item['metadata']['name'].lower()}=={item['metadata']['version']}"
        digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        yield f"{name} --hash=sha256:{digest}" if digest else f"# {name}: no hash"


def constraint_hashes() -> str:
    """Ask pip which file it would take for each constraint, without installing anything.

    Raises:
        SystemExit: pip cannot.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-I",
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--no-deps",
            "--quiet",
        ]
        command += ["--report", str(report), "-r", str(ROOT / "constraints.txt")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr.strip().splitlines()[-1])
        return "\n".join(hashed(json.loads(report.read_text())))


def main() -> None:
    """Print one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("agent", "environment", "hashes"))
    what = parser.parse_args().what
    if what == "hashes":
        print(constraint_hashes())
        return
    print(json.dumps(agent_bill() if what == "agent" else environment_bill(), indent=1))


if __name__ == "__main__":
    main()
