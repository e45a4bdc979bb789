"""Captions of similar pictures take part: what is written word by word is a mixture of whole captions."""

from functools import partial

import pytest
import torch
from torch import nn

from unrolled import InputError
from unrolled.data.subwords import END, PAD, START
from unrolled.nn.decoder import Decoder
from unrolled.tasks.caption_config import CaptionConfig
from unrolled.tasks.caption_neighbours import MOST, SHARPNESS, Neighbours
from unrolled.train.decoding import Decoding, Special, decode

WORDS = 9
SAID = [[[4, 5], [4, 6, 7]], [[4, 5]], [[8]], [[5, 4, 6, 7]]]


@pytest.fixture
def network() -> Decoder:
    torch.manual_seed(0)
    return Decoder("gru", WORDS, 4, 6).double()


def neighbours(share: float, seed: int = 0) -> tuple[Neighbours, torch.Tensor]:
    """Of four pictures with five captions; and features of three others."""
    features = torch.rand(7, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Neighbours.of(share, features[:4], SAID), features[4:]


def probability(step, state, caption: list[int]) -> torch.Tensor:
    """Of a caption (B,), the product of those of its words and its end."""
    found, words = 1.0, torch.full((3,), START)
    for word in [*caption, END]:
        scores, state, _ = step(words, state)
        found = found * scores.softmax(-1)[:, word]
        words = torch.full((3,), word)
    return found


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("caption", [[4, 5], [4, 6, 7], [8], [4], [7, 7]], ids=str)
@torch.no_grad()
def test_a_caption_is_as_likely_as_the_mixture_says(network, share, caption):
    near, features = neighbours(share)
    alone = probability(network.step, network.begin(3), caption)
    unit = [nn.functional.normalize(each, dim=1) for each in (features, near.features)]
    weights = (SHARPNESS * unit[0] @ unit[1].t()).softmax(1)
    said = torch.tensor([own.count(caption) / len(own) for own in SAID], dtype=torch.float64)
    wanted = (1 - share) * alone + share * weights @ said
    if share == 1 and not said.any():
        return  # nothing that is written of other pictures: no word of it has a probability
    found = probability(partial(near.step, network.step), near.begin(network.begin(3), features), caption)
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@torch.no_grad()
def test_neighbours_alone_write_the_likeliest_caption_of_theirs(network):
    """Also where rows of a beam move: a beam as wide as there are captions finds it."""
    near, _ = neighbours(1.0)
    step, special = partial(near.step, network.step), Special(pad=PAD, start=START, end=END)
    found = decode(
        step, near.begin(network.begin(3), near.features[[3, 2, 1]]), 3, special,
        Decoding(beam=5, length_penalty=0.0), max_length=9,
    )  # fmt: skip
    assert [each.tokens for each in found] == [[5, 4, 6, 7], [8], [4, 5]]


def test_of_very_many_pictures_some_are_kept_evenly():
    count = 2 * MOST + 1
    near = Neighbours.of(0.5, torch.arange(count, dtype=torch.float32)[:, None], [[[4]]] * count)
    assert near.features[:, 0].tolist() == [*range(0, count, 3)]
    assert len(near.captions) == len(near.places) == len(near.features)


def test_neighbours_are_of_features_that_stay():
    assert CaptionConfig().neighbours == 0.5
    assert CaptionConfig(encoder="small").neighbours == CaptionConfig(fine_tune=True).neighbours == 0
    for wrong in ({"encoder": "small", "neighbours": 0.5}, {"neighbours": 1.1}, {"neighbours": -0.1}):
        with pytest.raises(InputError, match="--neighbours"):
            CaptionConfig(**wrong)
