"""Labelled grey pictures: scikit-learn's bundled digits, data sets, and IDX files of one's own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from zipfile import Path as Zipped

import numpy as np
import torch
from torch import Tensor

from unrolled.data.idx import read_idx
from unrolled.data.library import kept
from unrolled.errors import DataError

CLASSES: Final = 1000
"""Classes that labels may tell apart, at most."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures and their labels.

    Shapes: pixels (N, H, W), labels (N,).
    """

    name: str
    pixels: Tensor = field(repr=False)
    """float32, from 0 to 1."""
    labels: Tensor = field(repr=False)
    """int64, from 0."""
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def sha256(self) -> str:
        """The same for the same pictures in the same order with the same labels."""
        digest = hashlib.sha256(str((tuple(self.pixels.shape), self.classes)).encode())
        digest.update(self.pixels.contiguous().numpy().astype("<f4").tobytes())
        digest.update(self.labels.contiguous().numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def __getitem__(self, places: Tensor) -> Pictures:
        """Those at some places."""
        return Pictures(self.name, self.pixels[places], self.labels[places], self.classes)

    def split(self, share: float, seed: int) -> tuple[Pictures, Pictures]:
        """Two parts drawn at random, of which the second has about this share of every class.

        Args:
            seed: of the drawing; the same parts for the same seed, on every machine.

        Raises:
            DataError: one of them is empty.
        """
        drawn = np.random.PCG64(seed).random_raw(len(self))  # whose numbers are promised to stay
        labels = self.labels.numpy()
        second = np.zeros(len(self), bool)
        for label in range(self.classes):
            places = np.flatnonzero(labels == label)
            second[places[np.argsort(drawn[places], kind="stable")[: round(share * len(places))]]] = True
        if second.all() or not second.any():
            raise DataError(
                f"{self.name} has {len(self):,} pictures, too few to keep a share of {share:g} to test on."
            )
        return self[torch.from_numpy(np.flatnonzero(~second))], self[torch.from_numpy(np.flatnonzero(second))]


def bundled_digits() -> Pictures:
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    They are the test part of UCI's Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998,
    doi:10.24432/C50P49).

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise DataError(
            "the bundled digits come with scikit-learn: pip install 'unrolled[digits]', or give IDX files of "
            "your own with --images FILE --labels FILE."
        ) from None
    found = load_digits()
    pixels = torch.from_numpy(found.images / 16).float()
    return Pictures("digits", pixels, torch.from_numpy(found.target).long(), 10)


def named_pictures(name: str, cache: Path | None = None) -> tuple[Pictures, Pictures]:
    """The pictures of a data set that was fetched: those to train on and those to test on.

    Args:
        name: "fashion-mnist", whose parts are those published; or "mnist", of which every fifth picture of a
            class is to test on, drawn at random and always the same.

    Raises:
        DataError: no data set of pictures has this name, it was not fetched, or its file was changed since.
    """
    file = kept(name, "pictures", cache)
    if name == "mnist":
        whole = read_pictures(Zipped(file, "images-idx3-ubyte"), Zipped(file, "labels-idx1-ubyte"))
        return replace(whole, name=name).split(0.2, seed=0)
    parts = (
        read_pictures(
            Zipped(file, f"{part}-images-idx3-ubyte.gz"), Zipped(file, f"{part}-labels-idx1-ubyte.gz")
        )
        for part in ("train", "t10k")
    )
    train, test = (replace(part, name=name) for part in parts)
    return train, test


def read_pictures(images: Path | Zipped, labels: Path | Zipped, classes: int | None = None) -> Pictures:
    """Pictures from two IDX files, plain or gzip: bytes (N, H, W), and labels (N,).

    Args:
        classes: how many there are; if not given, one more than the largest label.

    Raises:
        DataError: a file cannot be read, is not what is expected, or the two do not belong together.
    """
    pixels, targets = read_idx(images, axes=3), read_idx(labels, axes=1)
    if pixels.dtype != np.dtype("u1"):
        raise DataError(f"{images} has numbers of kind {pixels.dtype}, expected bytes, from 0 to 255.")
    if not np.issubdtype(targets.dtype, np.integer):
        raise DataError(f"{labels} has numbers of kind {targets.dtype}, expected whole numbers.")
    if len(pixels) != len(targets):
        raise DataError(
            f"{images} has {len(pixels):,} pictures and {labels} {len(targets):,} labels: they do not belong "
            "together."
        )
    if not pixels.size:
        raise DataError(f"{images} has no pictures, or pictures without pixels.")
    low, high = int(targets.min()), int(targets.max())
    most = CLASSES if classes is None else classes
    if low < 0 or high >= most:
        raise DataError(f"{labels} has labels from {low} to {high}, expected 0 to {most - 1} at most.")
    return Pictures(
        images.name,
        torch.from_numpy(pixels.astype(np.float32) / 255),
        torch.from_numpy(targets.astype(np.int64)),
        high + 1 if classes is None else classes,
    )
