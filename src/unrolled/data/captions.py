"""Pictures with captions: of a data set, or of a folder of one's own with a file in the format of COCO."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unrolled.data.images import ImageFiles, Images, broken_ones, decode
from unrolled.data.json_files import read_json, records
from unrolled.data.library import kept
from unrolled.data.splits import hold_out
from unrolled.errors import DataError


@dataclass(frozen=True)
class CaptionedImage:
    """What is said of a picture."""

    name: str
    """Its file, or its path in a data set."""
    captions: tuple[str, ...]
    """At least one."""
    category: str = ""
    """What kind of thing it shows, where that is known."""
    translations: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of its first caption, by codes of languages such as `fr`."""


@dataclass(frozen=True, eq=False)
class CaptionedImages:
    """Pictures and their captions, place by place."""

    name: str
    items: tuple[CaptionedImage, ...] = field(repr=False)
    images: Images = field(repr=False)
    """Each uint8 (3, H, W); sizes differ."""
    masks: Sequence[Tensor] | None = field(default=None, repr=False)
    """How opaque each picture is, uint8 (H, W), from 0 to 255, where that is known."""
    skipped: tuple[str, ...] = ()
    """What was left out, and why."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, places: Sequence[int]) -> CaptionedImages:
        """Those at some places."""
        return CaptionedImages(
            self.name,
            tuple(self.items[place] for place in places),
            picked(self.images, places),
            None if self.masks is None else [self.masks[place] for place in places],
            self.skipped,
        )

    def split(self, held_out: int, seed: int = 0) -> tuple[CaptionedImages, CaptionedImages]:
        """Two parts drawn at random, of which the second has so many pictures.

        Raises:
            DataError: one of them is empty.
        """
        train, held = hold_out(range(len(self)), [(place,) for place in range(len(self))], held_out, seed)
        return self[train], self[held]


def named_captions(name: str, *, size: int = 256, cache: Path | None = None) -> CaptionedImages:
    """The captioned pictures of a data set that was fetched, in the order of their names, on white.

    Args:
        name: such as "stamps", whose category is the first folder of its path.
        size: the longer side of a picture is at most that.

    Raises:
        DataError: no data set of captions has this name, it was not fetched, or its file was changed; or
            Pillow is not installed.
    """
    items, pictures = [], []
    with zipfile.ZipFile(kept(name, "captions", cache)) as file:
        for path in sorted(path for path in file.namelist() if path.endswith(".png")):
            text = f"{path.removesuffix('.png')}.txt"
            if text in file.NameToInfo:  # mirrored pictures have none of their own
                first, *others = file.read(text).decode().split("\n")
                translations = dict(
                    re.findall(r"^([^.=]+)\.utf8=(.*\S)\s*$", "\n".join(others), re.MULTILINE)
                )
                item = path.removesuffix(".png")
                items.append(CaptionedImage(item, (first.strip(),), item.split("/")[0], translations))
                pictures.append(decode(file.read(path), size, path))
    return CaptionedImages(name, tuple(items), [each for each, _ in pictures], [mask for _, mask in pictures])


def read_coco(
    captions: Path, images: Path, *, skip_broken: bool = False, size: int | None = 256
) -> CaptionedImages:
    """Captioned pictures from a JSON file in the format of COCO's captions, and a folder.

    The file has `images`, each with `id` and `file_name`, and `annotations`, each with `image_id` and
    `caption`; one without a letter or a digit is none. Every picture is looked at once, so that a broken one
    is known before training.

    Args:
        captions: the JSON file.
        images: the folder that `file_name` is in.
        skip_broken: leave out pictures that are missing or broken or have no caption.
        size: the longer side of a picture is at most that, when it is read.

    Raises:
        DataError: a file is not in this format, or pictures are missing or broken or have no caption; the
            message lists and counts them.
    """
    captions, images = Path(captions), Path(images)
    data = read_json(captions)
    files = {
        image["id"]: str(image["file_name"])
        for image in records(captions, data, "images", {"id": (int, str), "file_name": str})
    }
    said: dict[object, list[str]] = {}
    for note in records(captions, data, "annotations", {"image_id": (int, str), "caption": str}):
        if note["image_id"] not in files:
            raise DataError(
                f"{captions} has a caption for picture {note['image_id']!r}, and no such picture."
            )
        caption = note["caption"].strip()
        if any(map(str.isalnum, caption)):
            said.setdefault(note["image_id"], []).append(caption)
    known = list(files)
    broken = broken_ones(images / files[key] for key in known)
    reasons = {key: "without caption" for key in known if key not in said}
    reasons |= {known[place]: reason for place, reason in broken.items()}
    lines = {files[key]: reason for key, reason in reasons.items()}
    skipped = left_out(captions, "pictures", lines, len(files), skip_broken)
    good = [key for key in known if key not in reasons]
    return CaptionedImages(
        captions.name,
        tuple(CaptionedImage(files[key], tuple(said[key])) for key in good),
        ImageFiles(tuple(images / files[key] for key in good), size),
        skipped=skipped,
    )


def left_out(
    path: Path, what: str, reasons: Mapping[str, str], count: int, skip_broken: bool
) -> tuple[str, ...]:
    """What to say of some of so many pictures or questions that cannot be used, each by its name.

    Raises:
        DataError: there are some, and they are not to be skipped, or nothing would be left.
    """
    lines = tuple(f"{name} ({reason.rstrip('.')})" for name, reason in reasons.items())
    if len(lines) == count:
        raise DataError(f"{path} names {count:,} {what}, none that can be used{_some(lines)}.")
    if lines and not skip_broken:
        raise DataError(
            f"{len(lines):,} of {count:,} {what} in {path} cannot be used{_some(lines)}. Mend them, or leave "
            "them out: --skip-broken (skip_broken=True)."
        )
    return lines


def picked(images: Images, places: Sequence[int]) -> Images:
    """Those at some places."""
    if isinstance(images, ImageFiles):
        return ImageFiles(tuple(images.paths[place] for place in places), images.size)
    if isinstance(images, Tensor):
        return images[torch.tensor(places, dtype=torch.long)]
    return [images[place] for place in places]


def _some(lines: Sequence[str], most: int = 5) -> str:
    more = f" and {len(lines) - most:,} more" if len(lines) > most else ""
    return f": {', '.join(lines[:most])}{more}" if lines else ""
