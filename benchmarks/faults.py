"""Inject faults into exports and verifications, and count how many end as a clear record.

    python benchmarks/faults.py

A clear record has the expected exit code, one sentence that names the fault, and no traceback; the next export removes
every draft, and no process stays. The exports are real, of a small model of the tests (tests/support/toy.py).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from effbench.codec import digest_of, file_sha256, fingerprint
from effbench.deploy.artifact import bundle
from effbench.schema import Artifact, FileInfo

ROOT = Path(__file__).resolve().parent.parent
EXPORT = ("export", "toy:net", "--res", "64", "--precision", "fp32")
TARGETS = ("ort", "ov", "coreml")
FULL_BYTES = 4096

Injection = Callable[[Path], tuple[int, str]]
"""Inject a fault into a folder with artifacts and run a command there; return its exit code and its output."""


def effbench(folder: Path, *arguments: str, disk_bytes: int | None = None) -> tuple[int, str]:
    """Run one command in a folder; return its exit code and its output."""

    def limit() -> None:
        if disk_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk_bytes, disk_bytes))

    command = [sys.executable, "-m", "effbench.cli", *arguments]
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, preexec_fn=limit
    )
    return result.returncode, result.stdout + result.stderr


def artifact_of(folder: Path, target: str) -> Artifact:
    return next(item for item in bundle.artifacts(folder / "runs") if item.subject.target == target)


def tampered(target: str) -> Injection:
    def inject(folder: Path) -> tuple[int, str]:
        artifact = artifact_of(folder, target)
        path = artifact.folder / max(artifact.files, key=lambda name: artifact.files[name].size_bytes)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))
        return effbench(folder, "verify", artifact.name)

    return inject


def bad_plan(target: str) -> Injection:
    """Cut every file in half and write a matching manifest, so that only the runtime can detect it."""

    def inject(folder: Path) -> tuple[int, str]:
        artifact = artifact_of(folder, target)
        files = {}
        for name in artifact.files:
            path = artifact.folder / name
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            files[name] = FileInfo(file_sha256(path), path.stat().st_size)
        bundle.save_manifest(replace(artifact, files=files, digest=digest_of(files)))
        return effbench(folder, "verify", artifact.name)

    return inject


def newer_format(folder: Path) -> tuple[int, str]:
    artifact = artifact_of(folder, "ort")
    path = artifact.folder / bundle.MANIFEST
    data = json.loads(path.read_text())
    data.pop("checksum")
    data["format"] = 99
    path.write_text(json.dumps({**data, "checksum": fingerprint(data)}))
    return effbench(folder, "verify", str(artifact.folder))


def hang(folder: Path) -> tuple[int, str]:
    return effbench(folder, *EXPORT, "-t", "ort", "--seed", "5", "--time-limit", "1")


def out_of_memory(folder: Path) -> tuple[int, str]:
    return effbench(folder, *EXPORT, "-t", "ort", "--seed", "6", "--memory-limit", "100")


def full_disk(folder: Path) -> tuple[int, str]:
    return effbench(folder, *EXPORT, "-t", "ort", "--seed", "7", disk_bytes=FULL_BYTES)


def killed_stage(folder: Path) -> tuple[int, str]:
    """Kill the child process that exports the graph; the command has to report it."""
    command = [sys.executable, "-m", "effbench.cli", *EXPORT, "-t", "ort", "--seed", "8"]
    parent = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for _ in range(600):
        children = Path(f"/proc/{parent.pid}/task").glob("*/children")
        pids = [int(pid) for listing in children for pid in listing.read_text().split()]
        if pids:
            time.sleep(1)
            os.kill(pids[0], signal.SIGKILL)
            break
        time.sleep(0.05)
    text = parent.communicate(timeout=120)[0]
    return parent.returncode, text


def killed_export(folder: Path) -> tuple[int, str]:
    """Kill the command itself and run it again; the second run has to succeed."""
    command = [sys.executable, "-m", "effbench.cli", *EXPORT, "-t", "ort", "--seed", "9"]
    parent = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(3)
    parent.kill()
    parent.wait()
    return effbench(folder, *EXPORT, "-t", "ort", "--seed", "9")


def hostile(location: str) -> Injection:
    """Export a model whose external data points to a file outside its folder."""

    def inject(folder: Path) -> tuple[int, str]:
        import onnx
        from onnx import external_data_helper

        secret = folder.parent / "secret.bin"
        secret.write_bytes(bytes(1 << 16))
        (folder / "link.bin").symlink_to(secret)
        model = onnx.load(artifact_of(folder, "onnx").path)
        tensor = max(model.graph.initializer, key=lambda item: item.ByteSize())
        external_data_helper.set_external_data(tensor, location.format(secret=secret))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        (folder / "hostile.onnx").write_bytes(model.SerializeToString())
        return effbench(folder, "export", "hostile.onnx", "--res", "64", "-t", "ort")

    return inject


def faults() -> Iterator[tuple[str, Injection, tuple[int, ...], str]]:
    """Yield name, injection, the expected exit codes, and the expected words of the message."""
    for target in TARGETS:
        yield f"tampered file, {target}", tampered(target), (2,), "altered since it was exported"
        yield f"bad plan, {target}", bad_plan(target), (1, 2, 5), ""
    yield "version mismatch of a manifest", newer_format, (2,), "format 99"
    yield "a stage that takes too long", hang, (5,), "was stopped after 1 s"
    yield "out of memory", out_of_memory, (5,), "the limit is 100 MiB"
    yield "full disk", full_disk, (2, 5), "too large"
    yield "a stage killed", killed_stage, (5,), "SIGKILL"
    yield "the export killed, then again", killed_export, (0,), "ok"
    for kind, location in (("absolute", "{secret}"), ("parent", "../secret.bin"), ("symlink", "link.bin")):
        yield f"hostile external data, {kind}", hostile(location), (2,), "outside the model's folder"


def leftovers(folder: Path) -> list[str]:
    """Return the processes that still work in the folder."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink().is_relative_to(folder):
                processes.append(f"process {entry.name}")
        except OSError:
            continue
    return processes


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    clear, total = 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        base.mkdir()
        shutil.copy(ROOT / "tests" / "support" / "toy.py", base / "toy.py")
        code, text = effbench(base, *EXPORT, *(part for name in TARGETS for part in ("-t", name)))
        if code != 0:
            print(text)
            return 5
        for name, inject, codes, words in faults():
            folder = Path(scratch) / f"fault{total}" / "work"
            shutil.copytree(base, folder)
            start = time.perf_counter()
            code, text = inject(folder)
            seconds = time.perf_counter() - start
            time.sleep(0.2)
            running = leftovers(folder)
            passed = code in codes and words in text and "Traceback" not in text and not running
            clear, total = clear + passed, total + 1
            print(f"{'clear' if passed else 'NOT':5}  {name:36} exit {code}  {seconds:5.1f} s  {' '.join(running)}")
            if not passed:
                print(text[-1500:])
    print(f"{clear}/{total} injected faults end as a clear record")
    return 0 if clear == total else 1


if __name__ == "__main__":
    sys.exit(main())
