"""Coloured pictures of any kind of file, as bytes (3, H, W) on white.

Whatever Pillow reads is taken: palettes, transparency, greys of 1 to 32 bits, CMYK, turned photographs. How
large a picture is, is known from its head, and one that is too large is not unpacked.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from unrolled.errors import DataError, check_sizes

if TYPE_CHECKING:
    from PIL.Image import Image

MOST: Final = 50_000_000
"""Pixels of a picture that is read, at most."""


class Images(Protocol):
    """Pictures by their place: a tensor (N, 3, H, W), a sequence of tensors (3, H, W), or `ImageFiles`."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Tensor: ...
    def __iter__(self) -> Iterator[Tensor]: ...


@dataclass(frozen=True)
class ImageFiles(Sequence[Tensor]):
    """Pictures that stay in their files: each is read when it is asked for."""

    paths: tuple[Path, ...]
    size: int | None = None
    """The longer side is at most that."""

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> ImageFiles: ...
    def __getitem__(self, place: int | slice) -> Tensor | ImageFiles:
        if isinstance(place, slice):
            return ImageFiles(self.paths[place], self.size)
        return read_image(self.paths[place], self.size)


def read_image(path: str | Path, size: int | None = None) -> Tensor:
    """A picture from a file, on white where it is transparent.

    Args:
        size: the longer side is at most that; a larger picture is made smaller, its proportions kept.

    Returns:
        uint8 (3, H, W).

    Raises:
        DataError: the file is missing, none that Pillow can read, cut short, or has more than `MOST` pixels;
            or Pillow is not installed.
    """
    return decode(Path(path), size)[0]


def decode(file: Path | bytes, size: int | None = None, name: str = "a picture") -> tuple[Tensor, Tensor]:
    """A picture on white, uint8 (3, H, W), and how opaque it is, uint8 (H, W), from 0 to 255.

    Args:
        file: a path, or what is in a file.
        size: as in `read_image`.
        name: what to call it in a message, if it is no path.

    Raises:
        DataError: as `read_image`.
    """
    if size is not None:
        check_sizes(size=size)
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError:
        raise DataError("pictures are read with Pillow: pip install 'unrolled[images]'.") from None
    name = str(file) if isinstance(file, Path) else name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, damaged notes of cameras
            with Image.open(file if isinstance(file, Path) else io.BytesIO(file)) as opened:
                if opened.width * opened.height > MOST:
                    raise _too_large(name, f"{opened.width:,} x {opened.height:,}")
                if size is not None:
                    opened.draft("RGB", (2 * size, 2 * size))  # photographs: unpack no more than is needed
                return _on_white(ImageOps.exif_transpose(opened), size)
    except FileNotFoundError:
        raise DataError(f"{name} does not exist.") from None
    except UnidentifiedImageError:
        raise DataError(f"{name} is no picture that can be read.") from None
    except Image.DecompressionBombError:
        raise _too_large(name, "far more") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name} cannot be read as a picture ({reason}).") from None


def fit(picture: Tensor, size: int, fill: float = 255) -> Tensor:
    """A picture in the middle of a square, as large as it fits, its proportions kept.

    Args:
        picture: (C, H, W), bytes or floats.
        size: of the square.
        fill: the value beside it: 255 is white; 0 for how opaque it is.

    Returns:
        (C, size, size) of the same type.
    """
    check_sizes(size=size)
    _, height, width = picture.shape
    scale = size / max(height, width)
    inner = max(round(height * scale), 1), max(round(width * scale), 1)
    scaled = functional.interpolate(picture[None].float(), inner, mode="bilinear", antialias=True)[0]
    if not picture.is_floating_point():
        scaled = scaled.round().clamp(0, 255)
    square = torch.full((len(picture), size, size), fill, dtype=picture.dtype)
    top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    square[:, top : top + inner[0], left : left + inner[1]] = scaled.to(picture.dtype)
    return square


def broken_ones(paths: Iterable[Path]) -> dict[int, str]:
    """Which pictures are missing or cannot be read, by their place, and why; each is read once, small."""
    found = {}
    for place, path in enumerate(paths):
        try:
            decode(path, 32)
        except DataError as error:
            found[place] = (
                "missing" if "does not exist" in str(error) else str(error).removeprefix(f"{path} ")
            )
    return found


def _on_white(image: Image, size: int | None) -> tuple[Tensor, Tensor]:
    from PIL import Image as images

    if image.mode[0] in "IF" or image.mode.startswith("I;16"):
        image = images.fromarray(_grey(np.asarray(image)))
    colours = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if colours.mode == "RGBA":
        white = images.new("RGBA", colours.size, "white")
        alpha, colours = colours.getchannel("A"), images.alpha_composite(white, colours).convert("RGB")
    else:
        alpha = images.new("L", colours.size, 255)
    if size is not None and max(colours.size) > size:
        scale = size / max(colours.size)
        smaller = max(round(colours.width * scale), 1), max(round(colours.height * scale), 1)
        colours, alpha = (each.resize(smaller, images.Resampling.BILINEAR) for each in (colours, alpha))
    pixels = np.array(np.asarray(colours).transpose(2, 0, 1), order="C")
    return torch.from_numpy(pixels), torch.from_numpy(np.array(alpha))


def _grey(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Greys of more than 8 bits as bytes: whole numbers are of 16 bits, fractions from 0 to 1 or to 255."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values) * (255 if np.nanmax(values, initial=0) <= 1 else 1)
    else:
        values = values / 257
    return values.round().clip(0, 255).astype(np.uint8)


def _too_large(name: str, how: str) -> DataError:
    return DataError(
        f"{name} has {how} pixels, and pictures are read up to {MOST:,} pixels: make it smaller first."
    )
