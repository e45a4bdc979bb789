"""Coloured shapes with captions, for captioners."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unrolled.data.captions import CaptionedImage, CaptionedImages
from unrolled.tasks.maps import Looker

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220)}
SHAPES = ("circle", "square", "bar")


def shape(name: str, colour: str, size: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A picture (3, size, size) of a shape somewhere on white, and where the shape is (size, size)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    r = size * random.uniform(0.14, 0.2)
    cy, cx = random.uniform(r + 2, size - r - 2, 2)
    dy, dx = np.abs(y - cy), np.abs(x - cx)
    inside = {
        "circle": dy**2 + dx**2 <= r**2,
        "square": np.maximum(dy, dx) <= 0.88 * r,
        "bar": (dx <= 0.35 * r) & (dy <= 1.3 * r),
    }[name]
    picture = np.where(inside, np.array(COLOURS[colour])[:, None, None], 255).astype(np.uint8)
    return torch.from_numpy(picture), torch.from_numpy((255 * inside).astype(np.uint8))


def shapes(count: int = 45) -> CaptionedImages:
    """Shapes of all colours, one after the other, with masks; two captions each."""
    items, pictures, masks = [], [], []
    for k in range(count):
        colour, name = [*COLOURS][k % 3], SHAPES[k // 3 % 3]
        picture, mask = shape(name, colour, seed=k)
        items.append(
            CaptionedImage(f"{k}.png", (f"A {colour} {name}.", f"a {name} that is {colour} on white paper"))
        )
        pictures.append(picture)
        masks.append(mask)
    return CaptionedImages("shapes", tuple(items), pictures, masks)


def looker(name: str = "ink", places: int = 4) -> Looker:
    """Sees how much of each colour is in each of 4 x 4 places, and a constant."""

    def look(squares: Tensor) -> Tensor:
        ink = torch.nn.functional.adaptive_avg_pool2d(1 - squares.float() / 255, places)
        return torch.cat([ink, torch.full_like(ink[:, :1], 0.1)], 1)

    return Looker(name, 32, look)


def written_as_files(folder: Path, whole: CaptionedImages) -> Path:
    """The same as PNG files in a folder, and a JSON file in COCO's format, which is returned."""
    from PIL import Image

    images, notes = [], []
    for k, (item, picture) in enumerate(zip(whole.items, whole.images, strict=True)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / item.name)
        images.append({"id": k, "file_name": item.name})
        notes += [{"image_id": k, "caption": caption} for caption in item.captions]
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    return path
