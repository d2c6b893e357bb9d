"""The public names under ``mypy --strict``: a user's file with right calls, and wrong ones that have to be errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

import effbench

USERS_FILE = """
from pathlib import Path

import numpy as np

import effbench
from effbench import Artifact, Backbone, Device, EffbenchError, Measurement, Preprocessing, Samples
from effbench.schema import Cell

version: str = effbench.__version__
effbench.__version__ + 1  # error: operator
effbench.exprot("regla_t")  # error: attr-defined


@effbench.declare(preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3), weights="mine")
def factory(width: int) -> list[int]:
    return [width]


widths: list[int] = factory(8)
factory("8")  # error: arg-type
effbench.declare(preprocesing=None)  # error: call-arg
Preprocessing(mean=0.5)  # error: arg-type
Preprocessing(men=(0.5,) * 3)  # error: call-arg

cells: list[Cell] = effbench.export("regla_t", ["ort"])
cells += effbench.export("regla_t", ["ort"], [224, "384x640"], precision="fp16", out=Path("runs"), options={"a": "b"})
effbench.export()  # error: call-arg
effbench.export("regla_t", precison="fp16")  # error: call-arg
effbench.export("regla_t", ["ort"], batch="1")  # error: arg-type
effbench.export("regla_t", [1])  # error: list-item

cells += effbench.quantize("regla_t", ["ort"], images="calibration", max_drop=1.0, data="labelled", precision="int8")
effbench.quantize("regla_t", ["ort"], max_drop=1.0)  # error: call-arg
effbench.quantize("regla_t", max_drop=1.0, data="labelled", precison="int8")  # error: call-arg

cells += effbench.verify(["regla_t-224-ort-fp32"], device="local")
effbench.verify(["regla_t"], devise="local")  # error: call-arg

effbench.numerics("regla_t", 224, images="images", max_images=4).findings
effbench.numerics("regla_t", 224, max_image=4)  # error: call-arg


def median(samples: Samples, artifact: Artifact, device: Device) -> float:
    print(artifact.digest, device.name, artifact.digset)  # error: attr-defined
    return float(np.median(np.concatenate([np.asarray(times) for times in samples.rounds])))


profiled = effbench.profile(["regla_t"], [512], targets=["ov"], threads=1, budget_s=10, rounds=6)
measurements: list[Measurement] = [*profiled.measurements]
effbench.profile(["regla_t"], resolution=[512])  # error: call-arg
effbench.profile(["regla_t"], threads="2")  # error: arg-type

verdicts = effbench.compare("a", "b", budget_s=60, workers=1)
code: int = verdicts.exit_code()
effbench.compare("a")  # error: call-arg
effbench.compare("a", "b", budget=60)  # error: call-arg

code = effbench.gate(["mynet:small"], base="main", fail_above=1).exit_code()  # error: call-arg
code = effbench.gate(["mynet:small"], base="main", device="local", batch=1).exit_code()

effbench.evaluate(["regla_t"], "images", targets=["ort"], max_images=100).results
effbench.evaluate(["regla_t"], images=100)  # error: call-arg

effbench.distill("regla_t", "images", ["regla_m@weights.safetensors"], resolution=224).weights
effbench.distill("regla_t", "images", teacher=["regla_m"])  # error: call-arg

effbench.sweep(["regla_t"], ["ort"], [224], ["fp32", "int8"], images="synthetic").cells
effbench.sweep(["regla_t"], presicions=["fp32"])  # error: call-arg

effbench.claims(["rgma"], passes=2)
effbench.claims(pases=2)  # error: call-arg

table = effbench.report("top1", published="none")
print(table.to_string())
effbench.report(metrics="top1")  # error: call-arg

backbones: list[Backbone] = effbench.list_models("regla")
effbench.list_models(1)  # error: arg-type

names: list[str] = [device.name for device in effbench.devices()]
names += [target.name for target in effbench.targets()]
effbench.devices("local")  # error: call-arg
effbench.targets("ort")  # error: call-arg
effbench.doctor(out="runs")
effbench.doctor(outs="runs")  # error: call-arg

measurements += effbench.imported([Path("times.json")], "artifact", "rpi5", threads=4)
effbench.imported(["times.json"], thread=4)  # error: call-arg
effbench.kit(["regla_t"], "rpi5", [224], targets=["ort"], to="folder")
effbench.kit(["regla_t"])  # error: call-arg

try:
    pass
except EffbenchError as error:
    print(error.hint, error.hnt)  # error: attr-defined
"""


def test_the_file_uses_every_public_name():
    names = {*re.findall(r"effbench\.(\w+)", USERS_FILE), *re.findall(r"\w+", USERS_FILE.partition("\nversion")[0])}
    assert [] == [name for name in effbench.__all__ if name not in names]


def test_right_calls_pass_and_each_wrong_one_is_an_error(tmp_path: Path, request: pytest.FixtureRequest):
    pytest.importorskip("mypy")
    path = tmp_path / "users_file.py"
    path.write_text(USERS_FILE)
    marked = [line.partition("  # error: ")[2] for line in USERS_FILE.splitlines()]
    expected = [f"{number}: {code}" for number, code in enumerate(marked, 1) if code]
    # Errors inside an installed package are not shown to its user; a checkout on the path needs "silent" for that.
    # No public signature names the skipped packages, and reading them takes most of the time.
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\n[mypy-torch.*,onnx.*,onnxscript.*,matplotlib.*,distributed.*]\nfollow_imports = skip\n")
    options = ["--strict", "--follow-imports=silent", f"--config-file={config}", "--no-error-summary"]
    pytest_cache = getattr(request.config, "cache", None)  # absent without pytest's cacheprovider
    cache = pytest_cache.mkdir("mypy_users_file") if pytest_cache else tmp_path / "cache"
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--hide-error-context", f"--cache-dir={cache}", str(path)],
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = re.findall(r"users_file\.py:(\d+): error: .*\[([\w-]+)\]", result.stdout)
    assert expected == [f"{number}: {code}" for number, code in errors], result.stdout + result.stderr
