"""Features of pictures are made once, and lie on disk from then on."""

import numpy as np
import pytest
import torch

from unrolled import DataError
from unrolled.data.images import ImageFiles, fit
from unrolled.tasks import maps
from unrolled.tasks.maps import SHARD, Looker, efficientnet, see


class Counting:
    """Looks at pictures in a way that tells left from right, and counts them."""

    def __init__(self):
        self.seen = 0

    def __call__(self, squares):
        self.seen += len(squares)
        x = squares.float() / 255
        return torch.nn.functional.avg_pool2d(x * torch.linspace(0, 1, x.shape[3]), 4)


def pictures(count, seed=0):
    random = np.random.default_rng(seed)
    sizes = [(3, int(h), int(w)) for h, w in random.integers(3, 20, (count, 2))]
    return [torch.from_numpy(random.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


@pytest.fixture
def looker():
    return Looker("counting 1", 8, Counting())


def test_features_are_those_of_squares(tmp_path, looker):
    images = pictures(5)
    found = see(images, looker, mirrored=True, cache=tmp_path)
    squares = torch.stack([fit(image, 8) for image in images])
    expected, turned = Counting()(squares), Counting()(squares.flip(3))
    places, mirror = torch.tensor([4, 0, 4, 2]), torch.tensor([False, True, True, False])
    assert (len(found), found.channels, found.shape) == (5, 3, (3, 2, 2))
    torch.testing.assert_close(found.at(places), expected[places], rtol=1e-3, atol=1e-4)
    mixed = torch.where(mirror[:, None, None, None], turned[places], expected[places])
    torch.testing.assert_close(found.at(places, mirror), mixed, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.means(), expected.mean((2, 3)), rtol=1e-3, atol=1e-3)
    both = torch.stack([expected.mean((2, 3)), turned.mean((2, 3))]).sqrt().mean(0)
    torch.testing.assert_close(found.roots(places), both[places], rtol=1e-3, atol=1e-3)
    plain = see(images, looker, cache=tmp_path)
    torch.testing.assert_close(
        plain.roots(places), expected.mean((2, 3)).sqrt()[places], rtol=1e-3, atol=1e-3
    )


def test_each_picture_is_looked_at_once(tmp_path, looker):
    images = pictures(SHARD + 3)
    first = see(images, looker, cache=tmp_path)
    assert looker.look.seen == SHARD + 3
    second = see(images, looker, cache=tmp_path)
    assert looker.look.seen == SHARD + 3
    places = torch.arange(SHARD + 3)
    assert torch.equal(first.at(places), second.at(places))


def test_only_what_changed_is_looked_at_again(tmp_path, looker):
    """Another picture, in the last file of them; then another network."""
    images = pictures(SHARD + 3)
    see(images, looker, cache=tmp_path)
    images[-1] = 255 - images[-1]
    see(images, looker, cache=tmp_path)
    assert looker.look.seen == SHARD + 6
    see(images, Looker("counting 2", 8, looker.look), cache=tmp_path)
    assert looker.look.seen == 2 * SHARD + 9


def test_a_training_that_is_stopped_keeps_what_was_seen(tmp_path, looker):
    def stop(what):
        if f"{SHARD}" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        see(pictures(SHARD + 3), looker, cache=tmp_path, say=stop)
    see(pictures(SHARD + 3), looker, cache=tmp_path)
    assert looker.look.seen == SHARD + 3


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY garbage", None])
def test_a_damaged_file_is_made_again(tmp_path, looker, damage):
    see(pictures(3), looker, cache=tmp_path)
    (file,) = (tmp_path / "features").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] if damage is None else damage)
    found = see(pictures(3), looker, cache=tmp_path)
    assert looker.look.seen == 6
    assert file.read_bytes() == whole
    assert found.at(torch.arange(3)).isfinite().all()


def test_pictures_in_files_are_known_by_what_is_in_them(tmp_path, looker):
    image = pytest.importorskip("PIL.Image")
    paths = []
    for k, picture in enumerate(pictures(3)):
        paths.append(tmp_path / f"{k}.png")
        image.fromarray(picture.permute(1, 2, 0).numpy()).save(paths[-1])
    files = ImageFiles(tuple(paths), 16)
    see(files, looker, cache=tmp_path)
    (tmp_path / "other.png").write_bytes(paths[0].read_bytes())
    see(ImageFiles((tmp_path / "other.png", *paths[1:]), 16), looker, cache=tmp_path)
    assert looker.look.seen == 3
    see(ImageFiles(tuple(paths), 4), looker, cache=tmp_path)
    assert looker.look.seen == 6
    paths[0].unlink()
    with pytest.raises(DataError, match=r"0\.png cannot be read"):
        see(files, looker, cache=tmp_path)


def test_what_is_not_finite_is_not_kept(tmp_path):
    with pytest.raises(DataError, match="not finite"):
        see(pictures(2), Looker("bad", 8, lambda x: x.float() / 0), cache=tmp_path)
    assert not (tmp_path / "features").exists()


def test_a_few_pictures_at_once(tmp_path, looker, monkeypatch):
    """How many are looked at at once changes nothing."""
    at_once = see(pictures(5), looker, cache=tmp_path).at(torch.arange(5))
    monkeypatch.setattr(maps, "AT_ONCE", 2)
    again = see(pictures(5), looker, cache=tmp_path / "other").at(torch.arange(5))
    assert torch.equal(at_once, again)


def test_weights_that_are_not_here_are_told():
    with pytest.raises(DataError, match="unrolled data fetch efficientnet-lite0"):
        efficientnet()


def test_efficientnet_looks_at_squares_of_224(monkeypatch, tmp_path):
    from unrolled.nn.efficientnet import EfficientNetLite0

    torch.save(EfficientNetLite0().state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(maps, "kept", lambda *_: tmp_path / "weights.pth")
    looker = efficientnet()
    found = looker(torch.zeros(1, 3, looker.size, looker.size, dtype=torch.uint8))
    assert (found.shape, found.dtype) == ((1, 1280, 7, 7), torch.float16)
