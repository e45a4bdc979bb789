import builtins
import io
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from drawn import BLUE, RED, cut, draw
from PIL import Image

from unrolled.data import images
from unrolled.data.images import ImageFiles, broken_ones, decode, fit, read_image
from unrolled.errors import DataError, InputError


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def palette(transparent: bool) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return saved(image, **({"transparency": 1} if transparent else {}))


def of(mode: str, *values) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    for place, value in enumerate(values):
        image.putpixel((place, 0), value)
    return image


WHITE, GREY, BLACK = (255,) * 3, (128,) * 3, (0,) * 3


@pytest.mark.parametrize(
    ("data", "colours"),
    [
        (palette(transparent=False), [RED, BLUE]),
        (palette(transparent=True), [RED, WHITE]),
        (saved(of("RGB", RED, BLUE)), [RED, BLUE]),
        (saved(of("RGB", RED, BLUE), transparency=BLUE), [RED, WHITE]),
        (saved(of("RGBA", (*RED, 255), (*BLUE, 0))), [RED, WHITE]),
        (saved(of("RGBA", (*RED, 51), (*BLUE, 255))), [(255, 204, 204), BLUE]),
        (saved(of("LA", (128, 255), (0, 0))), [GREY, WHITE]),
        (saved(of("L", 128, 0)), [GREY, BLACK]),
        (saved(of("1", 1, 0)), [WHITE, BLACK]),
        (saved(of("I;16", 0x8080, 0xFFFF)), [GREY, WHITE]),
        (saved(of("I", 0x8080, 0x10000), "TIFF"), [GREY, WHITE]),
        (saved(of("F", 128 / 255, 1.0), "TIFF"), [GREY, WHITE]),
        (saved(of("F", 128.0, float("nan")), "TIFF"), [GREY, BLACK]),
        (saved(of("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "TIFF"), [RED, BLUE]),
        (saved(of("RGB", RED, BLUE), "BMP"), [RED, BLUE]),
        (saved(of("RGB", RED, BLUE), "GIF", save_all=True, append_images=[of("RGB", BLUE)]), [RED, BLUE]),
        (saved(of("RGB", RED, BLUE), "WEBP", lossless=True), [RED, BLUE]),
    ],
)  # fmt: skip
def test_pictures_of_any_mode_become_bytes_on_white(tmp_path, data, colours):
    (tmp_path / "a").write_bytes(data)
    picture = read_image(tmp_path / "a")
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 1, 2)
    assert picture.is_contiguous()
    assert [tuple(picture[:, 0, place].tolist()) for place in (0, 1)] == colours


def test_how_opaque_a_picture_is_comes_with_it():
    pixels, alpha = decode(saved(of("RGBA", (*RED, 51), (*BLUE, 255))))
    assert alpha.tolist() == [[51, 255]]
    assert pixels.shape == (3, 1, 2)
    assert decode(saved(of("L", 3)))[1].tolist() == [[255]]


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((200, 100), 50, (25, 50)),
        ((100, 200), 50, (50, 25)),
        ((30, 20), 50, (20, 30)),
        ((1, 1), 50, (1, 1)),
        ((1, 400), 50, (50, 1)),
        ((400, 1), 1, (1, 1)),
    ],
)
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_the_longer_side_is_bounded_and_proportions_are_kept(tmp_path, size, limit, expected, ending):
    path = draw(tmp_path / f"a.{ending}", RED, size)
    picture = read_image(path, limit)
    assert picture.shape == (3, *expected)
    assert (picture.float().mean((1, 2)) - torch.tensor(RED)).abs().max() < 3
    assert read_image(path).shape == (3, size[1], size[0])


def test_no_colour_of_what_is_transparent_bleeds_in():
    """Behind alpha 0 the picture is blue; made smaller, its edge is red and white alone."""
    image = Image.new("RGBA", (64, 64), (*BLUE, 0))
    image.paste((*RED, 255), (0, 0, 30, 64))
    pixels, alpha = decode(saved(image), 8)
    assert (pixels[0] == 255).all()
    assert (pixels[1] == pixels[2]).all()
    assert (alpha[:, :3] == 255).all()
    assert (alpha[:, 5:] == 0).all()


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    of("RGB", RED, BLUE).resize((64, 32), 0).save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture = read_image(tmp_path / "a.jpg")
    assert picture.shape == (3, 64, 32)
    assert picture[0, 5, 16] > 200
    assert picture[2, 58, 16] > 200


def head_of_png(width: int, height: int) -> bytes:
    """A PNG that is as large as it says, and has nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a is no picture that can be read."),
        (b"hello", "a is no picture that can be read."),
        (
            head_of_png(10_000, 5_001),
            "a has 10,000 x 5,001 pixels, and pictures are read up to 50,000,000 pix",
        ),
        (head_of_png(11_000, 9_000), "a has 11,000 x 9,000 pixels"),
        (head_of_png(30_000, 30_000), "a has far more pixels"),
        (
            saved(Image.effect_noise((64, 64), 50))[:900],
            "a cannot be read as a picture (image file is truncated",
        ),
        (None, "a does not exist."),
    ],
)
def test_what_cannot_be_read_says_why_and_is_not_unpacked(tmp_path, data, message):
    if data is not None:
        (tmp_path / "a").write_bytes(data)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/{message}")) as caught:
        read_image(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_a_folder_or_a_size_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read as a picture \(Is a directory"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="size must be a whole number"):
        read_image(draw(tmp_path / "a.png"), 0)


def test_without_pillow_the_message_says_what_to_install(tmp_path, monkeypatch):
    def no_pillow(name, *rest):
        if name == "PIL":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", no_pillow)
    with pytest.raises(DataError, match=r"pip install 'unrolled\[images\]'"):
        read_image(tmp_path / "a.png")


def test_a_square_holds_the_picture_in_its_middle():
    picture = torch.zeros(3, 4, 8, dtype=torch.uint8)
    square = fit(picture, 16)
    assert square.dtype == torch.uint8
    assert square.shape == (3, 16, 16)
    assert (square[:, 4:12] == 0).all()
    assert (square[:, :4] == 255).all()
    assert (square[:, 12:] == 255).all()
    assert fit(torch.ones(1, 9, 3), 6, fill=0).sum() == 6 * 2
    assert fit(torch.ones(1, 1, 500), 10, fill=0).sum() == 10
    assert torch.equal(fit(square, 16), square)


def test_files_are_read_when_they_are_asked_for(tmp_path):
    files = ImageFiles(
        (draw(tmp_path / "a.png"), draw(tmp_path / "b.png", BLUE, (40, 20)), tmp_path / "c"), 20
    )
    assert len(files) == 3
    assert files[0].shape == (3, 6, 8)
    assert files[1].shape == (3, 10, 20)
    assert len(files[:2]) == 2
    assert [picture.shape[2] for picture in files[:2]] == [8, 20]
    with pytest.raises(DataError, match="does not exist"):
        files[2]


def test_broken_pictures_are_found_with_their_reasons(tmp_path):
    whole = draw(tmp_path / "a.jpg", size=(64, 64))
    half = draw(tmp_path / "b.jpg", size=(64, 64))
    cut(half)
    (tmp_path / "c.png").write_bytes(b"none")
    found = broken_ones([whole, half, tmp_path / "c.png", tmp_path / "gone"])
    assert found.keys() == {1, 2, 3}
    assert found[1].startswith("cannot be read as a picture (")
    assert found[2] == "is no picture that can be read."
    assert found[3] == "missing"


def test_greys_of_many_bits_keep_their_scale():
    values = np.arange(0, 65536, 257)
    assert images._grey(values).tolist() == list(range(256))
