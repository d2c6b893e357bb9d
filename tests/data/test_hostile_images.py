"""Images come from others: no decoder beyond four is tried, and a small file cannot ask for much memory."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest

from effbench.data import open_dataset, pixels
from effbench.errors import DataError
from effbench.schema import Preprocessing

Image = pytest.importorskip("PIL.Image")

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(escaped) (w) file closefile\nshowpage\n"


def encoded(form: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 100, 50)).save(stream, form)
    return stream.getvalue()


def png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds no pixels."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


@pytest.mark.parametrize("form", pixels.FORMATS)
def test_four_formats_are_read(form: str) -> None:
    assert (9, 7) == pixels.decode(encoded(form), "one").size


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PPM", "ICO", "PCX", "TGA", "SGI", "JPEG2000", "DDS", "PDF"])
def test_any_other_is_refused_whatever_its_name(form: str) -> None:
    if form not in Image.SAVE and not Image.init() and form not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {form}")
    with pytest.raises(DataError, match=r"cat\.png cannot be read as an image in JPEG, PNG, WEBP or BMP"):
        pixels.decode(encoded(form), "cat.png")


@pytest.mark.parametrize("start", [EPS, b"\xc5\xd0\xd3\xc6" + bytes(28) + EPS, b"%PDF-1.7\n", b"\x1f\x8b\x08\x00"])
def test_postscript_reaches_no_interpreter(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen.__init__", started)
    with pytest.raises(DataError, match="cannot be read as an image"):
        pixels.decode(start, "photo.png")


@pytest.mark.parametrize("size", [(9000, 9000), (2**31 - 1, 1), (65535, 65535)])
def test_a_size_above_the_limit_is_refused_before_a_pixel_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"the limit is 80,000,000|cannot be read"):
        pixels.decode(png(*size), "bomb.png")


def test_a_strip_that_would_grow_beyond_the_limit_is_refused() -> None:
    strip = Image.new("L", (1_000_000, 1))
    with pytest.raises(DataError, match="too narrow"):
        pixels.cut(strip, (224, 224), Preprocessing(), 1)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd.png", "a/../../secret.png"])
def test_a_list_of_images_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    (folder / "list.csv").write_text(f"path,label\n{name},0\n")
    with pytest.raises(DataError, match=r"list\.csv:2: .* cannot be an image of this list"):
        open_dataset(folder / "list.csv")
