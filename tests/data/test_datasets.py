"""Equal images in every layout are equal data sets; an invalid data set is an error."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from images_on_disk import encoded, per_class
from PIL import Image

from effbench.data import Dataset, open_dataset
from effbench.data.classes import imagenet
from effbench.errors import DataError

NAMES = ["cat", "dog", "emu"]


def contents(dataset: Dataset) -> list[tuple[int | None, int, int]]:
    """Return the label of each image, and the class and the number that its pixels encode."""
    rows = []
    for item in dataset.items:
        red, green, _ = Image.open(io.BytesIO(item.read())).getpixel((0, 0))
        rows.append((item.label, red // 20, green))
    return sorted(rows)


EXPECTED = [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (2, 2, 0), (2, 2, 1)]


def folder(root: Path) -> Path:
    return per_class(root / "images", NAMES)


def splits(root: Path) -> Path:
    per_class(root / "imagenet" / "train", ["cat"])
    return per_class(root / "imagenet" / "val", NAMES).parent


def list_csv(root: Path, labels: str = "name") -> Path:
    start = folder(root)
    file = root / "list.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        for path in sorted(start.rglob("*.png")):
            tag = path.parent.name if labels == "name" else NAMES.index(path.parent.name)
            writer.writerow([path.relative_to(root).as_posix(), tag])
    return file


def list_of_numbers(root: Path) -> Path:
    return list_csv(root, "number")


def parquet(root: Path) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"image": {"bytes": encoded(label, number), "path": f"{label}-{number}.png"}, "label": label}
        for label in range(3)
        for number in range(2)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "list.parquet")
    return root / "list.parquet"


def shards(root: Path) -> Path:
    # By the library that defines the format.
    webdataset = pytest.importorskip("webdataset")
    for shard in range(2):
        with webdataset.TarWriter(str(root / f"s-{shard:02d}.tar")) as sink:
            for label in range(3):
                sink.write({"__key__": f"{label}", "png": encoded(label, shard), "cls": label})
    return root / "s-{00..01}.tar"


def shards_by_json(root: Path) -> Path:
    webdataset = pytest.importorskip("webdataset")
    (root / "tars").mkdir()
    with webdataset.TarWriter(str(root / "tars" / "s.tar")) as sink:
        for label in range(3):
            for number in range(2):
                sink.write({"__key__": f"a.b/{label}{number}", "png": encoded(label, number), "json": {"label": label}})
    return root / "tars"


@pytest.mark.parametrize("make", [folder, splits, list_csv, list_of_numbers, parquet, shards, shards_by_json])
def test_every_layout_has_the_same_images_and_labels(make, tmp_path: Path):
    assert EXPECTED == contents(open_dataset(make(tmp_path)))


def test_the_classes_of_imagenet_are_sorted():
    assert ("n01440764", "n15075141", 1000) == (imagenet()[0], imagenet()[-1], len(set(imagenet())))
    assert list(imagenet()) == sorted(imagenet())


def test_folders_of_imagenet_classes_have_imagenet_labels(tmp_path: Path):
    data = open_dataset(per_class(tmp_path / "val", ["n02099601", "n01440764"], each=1))
    assert [0, 207] == [item.label for item in data.items]  # tench, golden retriever
    assert 1000 == len(data.classes or ())


def test_a_list_of_classes_defines_the_order(tmp_path: Path):
    start = folder(tmp_path)
    assert [2, 2, 1, 1, 0, 0] == [item.label for item in open_dataset(start, NAMES[::-1]).items]
    (start / "classes.txt").write_text("emu\ncat\ndog\n")
    assert [1, 1, 2, 2, 0, 0] == [item.label for item in open_dataset(start).items]


def test_images_without_labels(tmp_path: Path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(0, number))
    data = open_dataset(tmp_path)
    assert (False, None) == (data.labelled, data.classes)
    assert ["0.png", "1.png", "2.png"] == [item.name for item in data.items]


def test_the_hash_depends_on_content_label_and_name_only(tmp_path: Path):
    first = open_dataset(per_class(tmp_path / "a", NAMES))
    again = open_dataset(per_class(tmp_path / "b", NAMES))
    assert first.sha256 == again.sha256
    assert first.sha256 != open_dataset(tmp_path / "b", NAMES[::-1]).sha256
    (tmp_path / "b" / "cat" / "000.png").write_bytes(encoded(0, 9))
    assert first.sha256 != open_dataset(tmp_path / "b").sha256


def broken(root: Path, case: str) -> Path:
    if case == "nothing there":
        return root / "nowhere"
    if case == "no images":
        (root / "notes.txt").write_text("x")
        return root
    if case == "loose":
        per_class(root, NAMES)
        (root / "1.png").write_bytes(encoded(0))
        return root
    if case == "numbers":
        return per_class(root, [str(number) for number in range(11)], each=1)
    if case == "torn shard":
        (root / "s.tar").write_bytes(b"x" * 700)
        return root / "s.tar"
    if case == "no parquet":
        pytest.importorskip("pyarrow")
        (root / "s.parquet").write_bytes(b"x" * 700)
        return root / "s.parquet"
    texts = {
        "no column": "a,b\n1,2\n",
        "missing image": "path,label\nx.png,1\n",
        "twice": "path,label\nx/x.png,1\nx/x.png,1\n",
        "blank": "path,label\n,1\n",
    }
    (root / "x").mkdir()
    (root / "x" / "x.png").write_bytes(encoded(0))
    (root / "l.csv").write_text(texts[case])
    return root / "l.csv"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nothing there", "There is no folder"),
        ("no images", "holds no images"),
        ("loose", r"1.png\) and folders of classes"),
        ("numbers", "is not their numerical order"),
        ("torn shard", "cannot be read as a tar file"),
        ("no parquet", "cannot be read as Parquet"),
        ("no column", "no column of images among a, b"),
        ("missing image", r"l.csv:2: there is no .*x.png"),
        ("twice", r"l.csv:3: x/x.png is listed twice"),
        ("blank", r"l.csv:2: no image is named"),
    ],
)
def test_an_invalid_data_set_is_an_error(case: str, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        open_dataset(broken(tmp_path, case))


def test_a_class_that_is_not_listed_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="the class 'emu' is not in the list of 2 classes"):
        open_dataset(folder(tmp_path), NAMES[:2])
    (tmp_path / "twice.txt").write_text("cat\ncat\n")
    with pytest.raises(DataError, match=r"'cat' is listed twice \(entry 2\)"):
        open_dataset(tmp_path / "images", tmp_path / "twice.txt")


def test_the_classes_must_match_the_outputs(tmp_path: Path):
    open_dataset(folder(tmp_path)).check_head(3, "m")
    with pytest.raises(DataError, match="3 classes, m has 1000 outputs"):
        open_dataset(tmp_path / "images").check_head(1000, "m")
    (tmp_path / "n").mkdir()
    numbers = open_dataset(list_of_numbers(tmp_path / "n"))
    numbers.check_head(1000, "m")
    with pytest.raises(DataError, match=r"has label 2, m has 2 outputs"):
        numbers.check_head(2, "m")
