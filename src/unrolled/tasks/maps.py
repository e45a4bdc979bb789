"""Features of pictures, kept on disk: a network that does not learn looks at each picture once.

Features lie in the cache folder, some pictures a file, under a checksum of these pictures, of the network and
of how pictures are made ready. So a second training begins at once, and one that is stopped while pictures
are looked at goes on where it was. They are read where they lie, a picture when it is asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.data.cache import sha256_of, write
from unrolled.data.images import ImageFiles, Images, fit
from unrolled.data.library import kept
from unrolled.errors import DataError
from unrolled.folders import cache_folder
from unrolled.nn.efficientnet import SIDE, EfficientNetLite0, pixels, read_weights

SHARD: Final = 64
"""Pictures in a file."""

AT_ONCE: Final = 16
"""Pictures that are looked at at once."""

FORMAT: Final = 1

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Looker:
    """What looks at pictures.

    Args:
        name: of the network and its weights: another one for other features.
        size: side of the squares that pictures are put into.
        look: from bytes (B, 3, size, size) to features (B, C, h, w).
        weights: of the network by name, for one that is to learn on.
    """

    name: str
    size: int
    look: Callable[[Tensor], Tensor]
    weights: Mapping[str, Tensor] | None = None

    def __call__(self, squares: Tensor) -> Tensor:
        """Features as they are kept: as many of a picture in any company, rounded to float16."""
        with torch.inference_mode():
            found = [self.look(part) for part in torch.split(squares, AT_ONCE)]
        return torch.cat(found).half()


def efficientnet(cache: Path | None = None) -> Looker:
    """EfficientNet-Lite0 with the weights of ImageNet: features (B, 1280, 7, 7).

    Raises:
        DataError: its weights were not fetched, or were changed.
    """
    path = kept("efficientnet-lite0", "weights", cache)
    weights = read_weights(path)
    network = EfficientNetLite0(weights).eval()

    def look(squares: Tensor) -> Tensor:
        features: Tensor = network(
            pixels(squares.movedim(1, -1)).contiguous(memory_format=torch.channels_last)
        )
        return features

    return Looker(f"efficientnet-lite0 {sha256_of(path)}", SIDE, look, weights)


class Maps:
    """Features of N pictures.

    Args:
        shards: in the order of pictures, `SHARD` of them each but in the last; turned ones are of the same
            pictures, mirrored, if there are any.
    """

    def __init__(
        self, shards: Sequence[NDArray[np.float16]], turned: Sequence[NDArray[np.float16]] = ()
    ) -> None:
        self._shards, self._turned = shards, turned
        self.shape: tuple[int, ...] = tuple(shards[0].shape[1:])

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[0]

    def at(self, places: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Those of the pictures at these places, (P, C, h, w).

        Args:
            mirrored: (P,) of bools: from left to right.
        """
        found = torch.empty(len(places), *self.shape)
        turn = [False] * len(places) if mirrored is None else mirrored.tolist()
        for k, (place, mirror) in enumerate(zip(places.tolist(), turn, strict=True)):
            shard = (self._turned if mirror else self._shards)[place // SHARD]
            found[k] = torch.from_numpy(shard[place % SHARD].astype(np.float32))
        return found

    def roots(self, places: Tensor) -> Tensor:
        """Roots of the means of features of the pictures at these places (P, C), see `roots`."""
        ways = [None, torch.ones(len(places), dtype=torch.bool)] if self._turned else [None]
        return roots([self.at(places, way) for way in ways])

    def means(self) -> Tensor:
        """Of each picture over its places, (N, C)."""
        parts = [torch.from_numpy(shard.mean((2, 3), dtype=np.float32)) for shard in self._shards]
        return torch.cat(parts)


def roots(views: Sequence[Tensor]) -> Tensor:
    """What pictures are alike by (P, C): the roots of the means of their features, so that a few large ones
    do not hide the others (Perronnin, Sánchez & Mensink 2010, doi:10.1007/978-3-642-15561-1_11).

    Args:
        views: features (P, C, h, w) of the pictures, and as many of them mirrored, to be averaged over.
    """
    return torch.stack([view.float().mean((2, 3)).clamp(min=0).sqrt() for view in views]).mean(0)


def see(
    images: Images,
    looker: Looker,
    *,
    mirrored: bool = False,
    digests: Sequence[str] | None = None,
    cache: Path | None = None,
    say: Say | None = None,
) -> Maps:
    """Features of pictures, as they are in the cache folder, or made and put there.

    Args:
        mirrored: of the pictures mirrored, too.
        digests: their `checksums`, if they are known already.
        cache: the folder of caches, if another one.
        say: told how far it is.

    Raises:
        DataError: a picture cannot be read, features are not finite, or the folder cannot be written.
    """
    digests = [*checksums(images)] if digests is None else digests
    folder = (cache or cache_folder()) / "features"
    ways = (False, True) if mirrored else (False,)
    shards: dict[bool, list[NDArray[np.float16]]] = {way: [] for way in ways}
    for begin in range(0, len(digests), SHARD):
        places = range(begin, min(begin + SHARD, len(digests)))
        for way in ways:
            path = folder / f"{_key(looker, [digests[place] for place in places], way)}.npy"
            found = _read(path, len(places))
            if found is None:
                if say is not None:
                    say(f"looking at pictures: {begin:,} of {len(digests):,}")
                squares = torch.stack([fit(images[place], looker.size) for place in places])
                features = looker(squares.flip(3) if way else squares)
                if not features.isfinite().all():
                    raise DataError(f"{looker.name.partition(' ')[0]} gives features that are not finite.")
                written = io.BytesIO()
                np.save(written, features.numpy(), allow_pickle=False)
                write(path, written.getvalue())
                found = _read(path, len(places))
                assert found is not None
            shards[way].append(found)
    return Maps(shards[False], shards.get(True, ()))


def checksums(images: Images) -> Iterator[str]:
    """Of each picture: of its file, with the size it is read in, or of its pixels.

    Raises:
        DataError: a file cannot be read.
    """
    if isinstance(images, ImageFiles):
        for path in images.paths:
            try:
                yield f"{sha256_of(path)} {images.size}"
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror}).") from None
        return
    for place in range(len(images)):
        picture = images[place]
        digest = hashlib.sha256(f"{tuple(picture.shape)}".encode())
        digest.update(picture.contiguous().numpy().tobytes())
        yield digest.hexdigest()


def _key(looker: Looker, digests: Sequence[str], mirrored: bool) -> str:
    what = [FORMAT, looker.name, looker.size, mirrored, *digests]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _read(path: Path, count: int) -> Any:
    """A file of features where it lies; None where there is none, or none that is whole."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = found.dtype == np.float16 and found.ndim == 4 and len(found) == count
    return found if fits else None
