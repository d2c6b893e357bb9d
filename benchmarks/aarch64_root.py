"""Make a root folder with an aarch64 Python, numpy and ONNX Runtime for qemu-user: a Jetson-like host on x86-64.

    python benchmarks/aarch64_root.py FOLDER

Needs Debian with qemu-user-static. The system is not changed: a separate apt configuration downloads the packages, and
they are unpacked into the folder. Set the printed variable to run effbench's commands in that root.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "zlib1g", "libexpat1", "libssl3",
    "libffi8", "libbz2-1.0", "liblzma5", "libuuid1", "libgcc-s1", "libstdc++6", "libsqlite3-0", "libcrypt1",
    "libtinfo6", "libncursesw6", "libreadline8", "libdb5.3", "libnsl2", "libtirpc3",
)  # fmt: skip
WHEELS = ("numpy==2.4.6", "onnxruntime==1.22.1", "flatbuffers", "packaging", "protobuf")
"""ONNX Runtime 1.32 crashes under qemu 7.2; 1.22.1 runs."""


def run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True)


def main() -> None:
    """Download and unpack; print the variable that names the root."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the root is made")
    folder = parser.parse_args().folder.resolve()
    state, debs = folder / "apt", folder / "debs"
    for path in (state / "lists" / "partial", state / "cache" / "archives" / "partial", debs):
        path.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    options = [
        f"Dir::State::Lists={state / 'lists'}",
        f"Dir::State::Status={state / 'status'}",
        f"Dir::Cache={state / 'cache'}",
        "APT::Architecture=arm64",
        "APT::Architectures=arm64",
        "APT::Sandbox::User=root",
    ]
    apt = ["apt-get", "-qq", *(part for option in options for part in ("-o", option))]
    run(*apt, "update")
    run(*apt, "download", *PACKAGES, cwd=debs)
    root = folder / "root"
    for deb in sorted(debs.glob("*.deb")):
        run("dpkg-deb", "-x", str(deb), str(root))
    site = root / "usr" / "lib" / "python3" / "dist-packages"
    site.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    platforms = ["--platform", "manylinux_2_28_aarch64", "--platform", "manylinux2014_aarch64"]
    run(*pip, *platforms, "--python-version", "3.11", "--only-binary=:all:", *WHEELS)
    shutil.rmtree(state)
    shutil.rmtree(debs)
    print(f"EFFBENCH_AARCH64_ROOT={root}")


if __name__ == "__main__":
    main()
