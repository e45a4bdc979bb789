import pytest
import torch

from unrolled.data import Streams, held_out
from unrolled.errors import DataError, InputError

SIZES = [(N, B, T) for N in (2, 3, 17, 64, 101) for B in (1, 2, 5, 16, 200) for T in (1, 3, 7, 64)]
FITTING = [(N, B, T) for N, B, T in SIZES if N > B * T]


@pytest.mark.parametrize(("N", "B", "T"), FITTING)
def test_joined_chunks_are_contiguous_pieces_of_the_text(N, B, T):
    """With ids 0, 1, 2, ... an id is its own position."""
    streams = Streams(torch.arange(N), B, T)
    L = (N - 1) // B
    assert len(streams) == L // T
    inputs, targets = (torch.cat(part) for part in zip(*streams, strict=True))
    steps = torch.arange(L // T * T)
    assert torch.equal(inputs, steps[:, None] + L * torch.arange(B))
    assert torch.equal(targets, inputs + 1)
    for x, y in streams:
        assert x.shape == y.shape == (T, B)
        assert x.is_contiguous()
        assert y.is_contiguous()


def test_chunks_are_indexed_as_a_list():
    streams = Streams(torch.arange(20), 2, 3)
    assert len(streams) == len(list(streams)) == 3
    assert torch.equal(streams[-1][0], streams[2][0])
    for k in (3, -4):
        with pytest.raises(IndexError):
            streams[k]


def test_one_character_too_few_is_refused_and_says_how_many_are_needed():
    assert len(Streams(torch.arange(13), 4, 3)) == 1
    with pytest.raises(
        DataError, match=r"has 12 characters .* --batch 4 and --bptt 3 needs 13: lower --batch or"
    ):
        Streams(torch.arange(12), 4, 3)


@pytest.mark.parametrize(("N", "B", "T"), SIZES)
def test_every_character_but_the_first_is_predicted_once_from_the_one_before(N, B, T):
    seen = []
    for inputs, targets, _ in held_out(torch.arange(N), B, T):
        assert inputs.shape == targets.shape
        assert 1 <= len(inputs) <= T
        assert inputs.shape[1] in (1, B)
        assert torch.equal(inputs, targets - 1)
        seen += targets.flatten().tolist()
    assert sorted(seen) == list(range(1, N))


@pytest.mark.parametrize(("N", "B", "T"), SIZES)
def test_a_chunk_that_is_not_fresh_continues_the_one_before(N, B, T):
    last, starts = None, []
    for inputs, targets, fresh in held_out(torch.arange(N), B, T):
        if fresh:
            starts += inputs[0].tolist()
        else:
            assert torch.equal(inputs[0], last)
        last = targets[-1]
    L, remainder = divmod(N - 1, B)
    assert starts == ([b * L for b in range(B)] if L else []) + ([B * L] if remainder else [])


def test_a_single_character_cannot_be_scored():
    with pytest.raises(DataError, match="has 1 characters"):
        held_out(torch.arange(1), 1, 1)


@pytest.mark.parametrize("chunks", [Streams, held_out])
@pytest.mark.parametrize(("shape", "B", "T"), [((8, 1), 1, 1), ((8,), 0, 1), ((8,), 1, 0), ((8,), -1, 2)])
def test_sizes_that_make_no_sense_are_refused(chunks, shape, B, T):
    with pytest.raises(InputError, match=r"shape \(8, 1\)|at least 1"):
        chunks(torch.zeros(shape, dtype=torch.long), B, T)
