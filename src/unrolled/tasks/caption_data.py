"""Captioned pictures ready to learn from: where they come from, which are held out, and batches of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from unrolled.data.buckets import Buckets
from unrolled.data.captions import CaptionedImages, named_captions, read_coco
from unrolled.data.splits import shuffled
from unrolled.data.subwords import END, PAD, START, Subwords
from unrolled.errors import DataError, InputError
from unrolled.tasks.caption_config import CaptionConfig
from unrolled.tasks.caption_neighbours import Neighbours
from unrolled.tasks.maps import Looker, Say, checksums, efficientnet, see
from unrolled.tasks.vqa_questions import Squares
from unrolled.train.files import JSON

READ: Final = 256
"""The longer side of a picture, when it is read."""

SMALL: Final = 96
"""Side of the squares that the small encoder looks at."""

THUMB: Final = 16
"""Side of the thumbnails by which pictures are compared."""

NEAR: Final = 0.3
"""Thumbnails that differ by less than this share of their own contrast are nearly the same picture."""

ROOM: Final = 1 << 22
"""Differences of thumbnails that are held at once."""


@dataclass(frozen=True)
class Origin:
    """Where captioned pictures come from: a data set's name, or a folder and a JSON file in COCO's format.

    Raises:
        InputError: neither is given, or both.
    """

    data: str | None = None
    images: Path | None = None
    captions: Path | None = None
    skip_broken: bool = False

    def __post_init__(self) -> None:
        if (self.images is None) != (self.captions is None):
            given, missing = (
                ("a folder", "--captions JSON") if self.captions is None else ("--captions", "FOLDER")
            )
            raise InputError(f"{given} is given without {missing}: write FOLDER --captions JSON")
        if (self.data is None) == (self.images is None):
            raise InputError(
                "give the name of a data set, such as stamps, or a folder of pictures and --captions JSON"
            )

    @property
    def label(self) -> str:
        """What the pictures are called."""
        return self.data or (self.captions.name if self.captions is not None else "")

    def read(self) -> CaptionedImages:
        """All pictures with their captions.

        Raises:
            DataError: they cannot be read, or some are broken and not to be skipped.
        """
        if self.images is not None and self.captions is not None:
            return read_coco(self.captions, self.images, skip_broken=self.skip_broken, size=READ)
        assert self.data is not None
        return named_captions(self.data, size=READ)

    def to_json(self) -> dict[str, JSON]:
        if self.images is None or self.captions is None:
            return {"data": self.data}
        return {
            "images": str(self.images.resolve()),
            "captions": str(self.captions.resolve()),
            "skip_broken": self.skip_broken,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Origin:
        if "data" in value:
            return cls(str(value["data"]))
        return cls(None, Path(str(value["images"])), Path(str(value["captions"])), bool(value["skip_broken"]))


class Shown(Protocol):
    """Pictures as a network takes them."""

    def at(self, places: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Those at these places (B, …), mirrored from left to right where that is true."""

    def roots(self, places: Tensor) -> Tensor:
        """What those at these places are alike by (B, C), see `unrolled.tasks.maps.roots`."""


@dataclass(frozen=True, eq=False)
class Given:
    """Pictures as squares of bytes, or what was made of some before.

    Args:
        alike: (N, C), what those are alike by, if that is asked for.
    """

    pictures: Squares | Tensor
    alike: Tensor | None = None

    def at(self, places: Tensor, mirrored: Tensor | None = None) -> Tensor:
        found = self.pictures[places] if isinstance(self.pictures, Tensor) else self.pictures.at(places)
        return found if mirrored is None else torch.where(mirrored[:, None, None, None], found.flip(3), found)

    def roots(self, places: Tensor) -> Tensor:
        assert self.alike is not None
        return self.alike[places]


@dataclass(frozen=True, eq=False)
class Batch:
    """Captions, and their pictures.

    Shapes: pictures (B, …); read (T, B), START first; said (T, B), what follows each; there (T, B), true
        where something does; uniform (T, B), numbers by which hard attention draws places.
    """

    pictures: Tensor
    read: Tensor
    said: Tensor
    there: Tensor
    uniform: Tensor

    def part(self, rows: int, steps: int) -> Batch:
        """Some rows and steps of it."""
        cut = {name: getattr(self, name)[:steps, :rows] for name in ("read", "said", "there", "uniform")}
        return replace(self, pictures=self.pictures[:rows], **cut)


class CaptionData:
    """Captioned pictures, a vocabulary, and what of them is held out.

    Args:
        whole: all pictures.
        vocabulary: if it is not to be learned.
        looker: makes features of pictures; the network's own if not given.
        say: told how far looking at pictures is.

    Attributes:
        train, test: the places of the pictures to learn from, and of those held out.
        size: side of the squares that pictures are put into.
        side: height and width of the map of places.
        pooled: (N, D), what the nearest neighbour goes by: the mean of features, or where these are learned a
            thumbnail.
        weights: of the network that looks at pictures, if it is to learn.
        moved: how many of the latter were to be learned from, but look nearly as one that is held out.

    Raises:
        DataError: there are too few pictures.
    """

    def __init__(
        self,
        whole: CaptionedImages,
        config: CaptionConfig,
        vocabulary: Subwords | None = None,
        looker: Looker | None = None,
        say: Say | None = None,
    ) -> None:
        if len(whole) < 2:
            raise DataError(f"{whole.name} has {len(whole)} picture: give two or more, one to test on.")
        self.whole, self.config = whole, config
        digests = [*checksums(whole.images)]
        self._thumbs = see(whole.images, THUMBNAILS, digests=digests).at(torch.arange(len(whole))).flatten(1)
        count = min(max(1, round(config.holdout * len(whole))), len(whole) - 1)
        self.train, self.test, self.moved = divided(self._thumbs, count, config.split)
        said = [item.captions for item in whole.items]
        self.vocabulary = vocabulary or Subwords.of(
            [caption for place in self.train.tolist() for caption in said[place]], "words", config.words, True
        )
        flat = self.vocabulary.encode([caption for captions in said for caption in captions])
        ends = np.cumsum([0, *map(len, said)]).tolist()
        spelled = [flat[begin:end] for begin, end in pairwise(ends)]
        self._pairs = [(place, each) for place in self.train.tolist() for each in spelled[place]]
        # Of all lengths: in batches of about one length long captions, which are few, are hardly learned.
        count = len(self._pairs)
        self._batches = Buckets([1] * count, batch=min(config.batch, count), seed=config.seed)
        self.pictures: Shown
        self.channels, self.weights = 0, None
        if config.encoder == "small":
            self.pictures = Given(Squares(whole.images, SMALL))
            self.size, self.side = SMALL, (SMALL // 16, SMALL // 16)
            self.pooled = 1 - self._thumbs
        else:
            looker = looker or efficientnet()
            maps = see(whole.images, looker, mirrored=config.flips, digests=digests, say=say)
            self.channels, self.pooled = maps.channels, maps.means()
            self.size, self.side = looker.size, (maps.shape[1], maps.shape[2])
            self.pictures = Given(Squares(whole.images, looker.size)) if config.fine_tune else maps
            self.weights = looker.weights if config.fine_tune else None
        self.source: dict[str, JSON] = {
            "label": whole.name,
            "sha256": checksum(whole, digests),
            "pictures_to_learn_from": len(self.train),
            "pictures_held_out": len(self.test),
            "moved_as_nearly_the_same": self.moved,
            "skipped": list(whole.skipped),
        }

    def references(self, places: Sequence[int]) -> list[tuple[str, ...]]:
        """What people wrote of these pictures."""
        return [self.whole.items[place].captions for place in places]

    def neighbours(self, share: float) -> Neighbours | None:
        """The pictures to learn from, whose captions have a share in what is written, if they have any."""
        if not share:
            return None
        said: dict[int, list[Sequence[int]]] = {place: [] for place in self.train.tolist()}
        for place, each in self._pairs:
            said[place].append(each)
        return Neighbours.of(share, self.pictures.roots(self.train), [*said.values()])

    @cached_property
    def nearest(self) -> dict[int, int]:
        """For each picture that is held out the one to learn from with the most similar mean of features."""
        unit = torch.nn.functional.normalize(self.pooled, dim=1)
        best = [int((unit[self.train] @ unit[place]).argmax()) for place in self.test.tolist()]
        return dict(zip(self.test.tolist(), self.train[best].tolist(), strict=True))

    @cached_property
    def commonest(self) -> str:
        """The caption that most pictures to learn from have; of several the first of the alphabet."""
        counts: dict[str, int] = {}
        for captions in self.references(self.train.tolist()):
            for caption in captions:
                counts[caption] = counts.get(caption, 0) + 1
        return min(counts, key=lambda caption: (-counts[caption], caption))

    def batch(self, step: int) -> Batch:
        """What is read after `step` steps are done: the same, whatever was read before."""
        pairs = [self._pairs[k] for k in self._batches[step]]
        places, said = torch.tensor([place for place, _ in pairs]), [each for _, each in pairs]
        random = np.random.Generator(np.random.PCG64((self.config.seed, step, 1)))
        mirrored = torch.from_numpy(random.random(len(pairs)) < 0.5)
        pictures = self.pictures.at(places, mirrored if self.config.flips else None)
        found = batch_of(pictures, said, self.config.longest)
        return replace(found, uniform=torch.from_numpy(random.random(found.read.shape)).float())

    def held_out(self, count: int) -> Batch:
        """The first captions of so many pictures that are held out."""
        places = self.test[:count]
        said = self.vocabulary.encode([self.whole.items[place].captions[0] for place in places.tolist()])
        return batch_of(self.pictures.at(places), said, self.config.longest)


def batch_of(pictures: Tensor, said: Sequence[Sequence[int]], longest: int) -> Batch:
    """A batch of captions; one that is too long is cut, and its end is not learned."""
    T = min(max(map(len, said)), longest - 1) + 1
    read, after = (torch.full((T, len(said)), PAD) for _ in range(2))
    there = torch.zeros(T, len(said), dtype=torch.bool)
    for k, each in enumerate(said):
        whole = [START, *each, END][: T + 1]
        read[: len(whole) - 1, k] = torch.tensor(whole[:-1])
        after[: len(whole) - 1, k] = torch.tensor(whole[1:])
        there[: len(whole) - 1, k] = True
    return Batch(pictures, read, after, there, torch.zeros(T, len(said)))


THUMBNAILS: Final = Looker("thumbnails", THUMB, lambda squares: squares.float() / 255)


def divided(thumbnails: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor, int]:
    """Places of pictures to learn from and of pictures to hold out, and how many more these are than asked.

    So many are drawn to be held out; a picture that looks nearly as one of them is held out with it, as it
    would give its caption away.

    Args:
        thumbnails: (N, D).

    Raises:
        DataError: nothing would be left to learn from.
    """
    spread = (thumbnails - thumbnails.mean(1, keepdim=True)).square().mean(1).sqrt()
    held = torch.zeros(len(thumbnails), dtype=torch.bool)
    new = torch.from_numpy(shuffled(len(thumbnails), seed)[:count])
    while len(new):
        held[new] = True
        left = (~held).nonzero()[:, 0]
        near = torch.zeros(len(left), dtype=torch.bool)
        for part in torch.split(new, max(1, ROOM // max(1, len(left)))):
            apart = torch.cdist(thumbnails[part], thumbnails[left]) / thumbnails.shape[1] ** 0.5
            near |= (apart <= NEAR * torch.minimum(spread[part, None], spread[left])).any(0)
        new = left[near]
    train, test = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
    if not len(train):
        raise DataError("nearly all pictures look the same: give others, or hold out fewer with --holdout.")
    return train, test, len(test) - count


def checksum(whole: CaptionedImages, digests: Sequence[str]) -> str:
    """The same for the same pictures with the same captions in the same order."""
    told = [[item.name, *item.captions] for item in whole.items]
    return hashlib.sha256(json.dumps([told, list(digests)]).encode()).hexdigest()
