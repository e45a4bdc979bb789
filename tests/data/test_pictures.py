"""Labelled pictures: the bundled digits, files of one's own, and splits that are the same everywhere."""

import gzip
import struct
import sys

import numpy as np
import pytest
import torch

from unrolled.data.pictures import Pictures, bundled_digits, read_pictures
from unrolled.errors import DataError


def write_idx(path, array):
    """An IDX file of bytes, with gzip where its name says so."""
    data = (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype("u1").tobytes()
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def some(count: int, classes: int = 4) -> Pictures:
    return Pictures("some", torch.rand(count, 3, 2), torch.arange(count) % classes, classes)


def test_the_bundled_digits_are_those_of_scikit_learn():
    pytest.importorskip("sklearn")
    digits = bundled_digits()
    assert len(digits) == 1797
    assert digits.size == (8, 8)
    assert digits.classes == 10
    assert digits.pixels.min() == 0
    assert digits.pixels.max() == 1
    assert digits.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # The mean over all pixels, and a picture of a nought.
    assert digits.pixels.double().mean().item() == pytest.approx(4.884164579855314 / 16, abs=1e-6)
    assert (digits.pixels[0, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_without_scikit_learn_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'unrolled\[digits\]', or give IDX files"):
        bundled_digits()


@pytest.mark.parametrize("end", ["", ".gz"])
def test_files_of_ones_own_are_read(tmp_path, end):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 3))
    labels = np.arange(9) % 3
    found = read_pictures(
        write_idx(tmp_path / f"images{end}", pixels), write_idx(tmp_path / f"labels{end}", labels)
    )
    np.testing.assert_allclose(found.pixels, pixels / 255, atol=1e-7)
    assert found.labels.tolist() == labels.tolist()
    assert found.classes == 3
    assert found.size == (4, 3)


@pytest.mark.parametrize(
    ("pixels", "labels", "said"),
    [
        (np.zeros((5, 2, 2)), np.zeros(4), "5 pictures and .* 4 labels: they do not belong together"),
        (np.zeros((0, 2, 2)), np.zeros(0), "has no pictures"),
        (np.zeros((2, 0, 2)), np.zeros(2), "pictures without pixels"),
        (np.zeros((3,)), np.zeros(3), "has 1 axes, expected 3"),
        (np.zeros((3, 2, 2)), np.zeros((3, 2, 2)), "has 3 axes, expected 1: labels are"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, pixels, labels, said):
    with pytest.raises(DataError, match=said):
        read_pictures(write_idx(tmp_path / "images", pixels), write_idx(tmp_path / "labels", labels))


def test_numbers_of_another_kind_are_refused(tmp_path):
    images = write_idx(tmp_path / "images", np.zeros((2, 2, 2)))
    labels = tmp_path / "labels"
    for kind, data, said in (
        (0x0D, struct.pack(">2f", 0, 1), "kind .*f4, expected whole numbers"),
        (0x09, struct.pack(">2b", 0, -1), "labels from -1 to 0, expected 0 to 999"),
        (0x0C, struct.pack(">2i", 0, 1000), "labels from 0 to 1000, expected 0 to 999"),
    ):
        labels.write_bytes(struct.pack(">BBBBI", 0, 0, kind, 1, 2) + data)
        with pytest.raises(DataError, match=said):
            read_pictures(images, labels)
    labels.write_bytes(struct.pack(">BBBBI", 0, 0, 0x0C, 1, 2) + struct.pack(">2i", 0, 300))
    assert read_pictures(images, labels).classes == 301
    images.write_bytes(struct.pack(">BBBBIII", 0, 0, 0x09, 3, 2, 1, 1) + b"ab")
    with pytest.raises(DataError, match="kind int8, expected bytes"):
        read_pictures(images, labels)


def test_a_split_has_its_share_of_every_class_and_forgets_none():
    pictures = some(403)
    train, test = pictures.split(0.2, seed=5)
    assert test.labels.bincount().tolist() == [20, 20, 20, 20]
    assert len(train) + len(test) == 403
    both = torch.cat([train.pixels, test.pixels]).flatten(1)
    assert torch.equal(
        both.sum(0).double().round(decimals=3), pictures.pixels.flatten(1).sum(0).double().round(decimals=3)
    )
    seen = {tuple(row) for row in both.tolist()}
    assert seen == {tuple(row) for row in pictures.pixels.flatten(1).tolist()}


def test_a_split_depends_on_its_seed_and_on_nothing_else():
    pictures = some(100)
    first, again, other = (pictures.split(0.3, seed)[1] for seed in (1, 1, 2))
    torch.manual_seed(7)
    assert first.sha256 == again.sha256 == pictures.split(0.3, 1)[1].sha256 != other.sha256
    # As it was when runs began to be made: a run of before can be gone on with.
    places = Pictures("places", torch.arange(12.0).view(12, 1, 1), torch.zeros(12, dtype=torch.long), 1)
    assert places.split(0.25, 0)[1].pixels.flatten().tolist() == [2, 3, 11]


def test_too_few_pictures_cannot_be_split():
    with pytest.raises(DataError, match=r"some has 4 pictures, too few to keep a share of 0.1"):
        some(4).split(0.1, 0)
    with pytest.raises(DataError, match="too few"):
        some(4).split(0.9, 0)


def test_the_checksum_tells_pictures_labels_and_order_apart():
    pictures = some(8)
    changed = pictures.pixels.clone()
    changed[3, 1, 1] += 1e-3
    others = [
        Pictures("some", changed, pictures.labels, 4),
        Pictures("some", pictures.pixels, pictures.labels.flip(0), 4),
        Pictures("some", pictures.pixels.flip(0), pictures.labels, 4),
        Pictures("some", pictures.pixels.transpose(1, 2).contiguous(), pictures.labels, 4),
        Pictures("some", pictures.pixels, pictures.labels, 5),
    ]
    assert len({each.sha256 for each in (pictures, *others)}) == 6
    assert Pictures("other", pictures.pixels, pictures.labels, 4).sha256 == pictures.sha256
