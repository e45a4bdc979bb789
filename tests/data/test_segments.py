"""Segments joined are the arrays, whatever holds these, and nothing is kept of them."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unrolled.data import EncodedText, Segments, Streams, Text, encoded, inputs_and_targets
from unrolled.errors import DataError, InputError

CHARACTERS = "".join(random.Random(0).choices("abcdef \n", k=50))
ROWS = np.arange(50 * 6, dtype=np.float32).reshape(50, 2, 3)
NUMBERS = np.arange(7, 57)


def in_file(path: Path, array: np.ndarray, mode: str = "r", offset: int = 0) -> np.memmap:
    path.write_bytes(b"\xff" * offset + array.tobytes())
    return np.memmap(path, array.dtype, mode, offset, array.shape)


@pytest.fixture
def text(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> EncodedText:
    monkeypatch.setattr(encoded, "IN_MEMORY", 0)
    (tmp_path / "a.txt").write_text(CHARACTERS)
    ids = Text.open(tmp_path / "a.txt").encode()
    assert isinstance(ids, EncodedText)
    return ids


def saved(path: Path) -> Any:
    np.save(path / "a.npy", ROWS)
    return np.load(path / "a.npy", mmap_mode="r")


ARRAYS = {
    "tensor": lambda path: torch.from_numpy(ROWS),
    "array": lambda path: ROWS,
    "array that is not to be written to": lambda path: np.broadcast_to(ROWS, ROWS.shape),
    "bytes turned round": lambda path: ROWS.astype(">f4"),
    "columns first": lambda path: np.asfortranarray(ROWS),
    "backwards": lambda path: np.ascontiguousarray(ROWS[::-1])[::-1],
    "file": lambda path: in_file(path / "a", ROWS),
    "file to write to": lambda path: in_file(path / "a", ROWS, "r+"),
    "file, changes in memory": lambda path: in_file(path / "a", ROWS, "c"),
    "behind a header": lambda path: in_file(path / "a", ROWS, offset=4097),
    "saved by NumPy": saved,
    "piece of a file": lambda path: in_file(path / "a", np.concatenate([ROWS, ROWS + 1]))[:50],
    "piece of a piece": lambda path: in_file(path / "a", np.concatenate([ROWS + 1, ROWS, ROWS]))[7:][43:93],
    "every other": lambda path: in_file(path / "a", ROWS.repeat(2, 0))[1::2],
    "file backwards": lambda path: in_file(path / "a", np.array(ROWS[::-1, :, ::-1]))[::-1, :, ::-1],
    "file of columns": lambda path: in_file(path / "a", np.ascontiguousarray(ROWS.T)).T,
    "view of a file": lambda path: np.asarray(in_file(path / "a", ROWS, offset=8)),
    "file without a name": lambda path: nameless(path),
}
arrays = pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)


def nameless(path: Path) -> Any:
    mapped = in_file(path / "a", ROWS)
    mapped.filename = None
    return mapped


@arrays
@pytest.mark.parametrize("steps", [1, 7, 25, 49, 50, 51])
def test_segments_joined_are_the_array(tmp_path, make, steps):
    segments = Segments(make(tmp_path), steps=steps)
    assert len(segments) == len([*segments]) == -(-50 // steps)
    assert all(len(segment) == steps for segment in [*segments][:-1])
    whole = torch.cat([*segments])
    assert whole.dtype == torch.float32
    assert np.array_equal(whole.numpy(), ROWS)
    assert torch.equal(segments[-1], segments[len(segments) - 1])
    for k in (len(segments), -len(segments) - 1):
        with pytest.raises(IndexError):
            segments[k]


def test_several_arrays_go_side_by_side(tmp_path, text):
    segments = Segments(text, in_file(tmp_path / "a", ROWS), torch.from_numpy(NUMBERS), steps=8)
    parts = [torch.cat(each) for each in zip(*segments, strict=True)]
    assert torch.equal(parts[0], text.read())
    assert np.array_equal(parts[1], ROWS)
    assert np.array_equal(parts[2], NUMBERS)
    assert all(isinstance(segment, tuple) and len({*map(len, segment)}) == 1 for segment in segments)


def test_a_piece_of_a_tensor_shares_its_memory_and_its_gradient():
    rows = torch.zeros(5, 2, requires_grad=True)
    Segments(rows, steps=2)[1].sum().backward()
    assert rows.grad.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1], [0, 0]]


def test_what_is_written_to_a_file_is_in_the_segments_that_follow(tmp_path):
    mapped = in_file(tmp_path / "a", ROWS, "r+")
    segments = Segments(mapped, steps=10)
    mapped[13] = -1
    assert (segments[1][3] == -1).all()
    changed = in_file(tmp_path / "b", ROWS, "c")
    changed[13] = -2
    assert (Segments(changed, steps=10)[1][3] == -2).all()


KINDS = {
    "tensor": lambda path, text: text.read(),
    "array": lambda path, text: text.read().numpy(),
    "file": lambda path, text: in_file(path / "a", text.read().numpy().astype(np.uint8)),
    "text": lambda path, text: text,
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@kinds
@pytest.mark.parametrize("batch", [None, 1, 2, 7, 16, 49])
def test_targets_are_the_inputs_one_step_later(tmp_path, text, kind, batch):
    ids, L = text.read(), 49 // (batch or 1)
    segments = Segments(*inputs_and_targets(kind(tmp_path, text), batch), steps=5)
    inputs, targets = (torch.cat(part) for part in zip(*segments, strict=True))
    if batch is None:
        inputs, targets = inputs[:, None], targets[:, None]
    for b in range(batch or 1):
        assert torch.equal(inputs[:, b], ids[b * L : b * L + L])
        assert torch.equal(targets[:, b], ids[b * L + 1 : b * L + L + 1])


@kinds
def test_whole_segments_of_a_batch_are_the_chunks_of_streams(tmp_path, text, kind):
    segments = Segments(*inputs_and_targets(kind(tmp_path, text), 3), steps=5)
    for found, expected in zip(segments, Streams(text, 3, 5), strict=False):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_tokens_of_several_numbers_have_targets_too():
    inputs, targets = inputs_and_targets(ROWS)
    assert np.array_equal(inputs, ROWS[:-1])
    assert np.array_equal(targets, ROWS[1:])


@pytest.mark.parametrize(
    ("arrays", "steps", "message"),
    [
        ((), 1, "no arrays"),
        ((ROWS,), 0, "steps must be a whole number of at least 1, got 0"),
        ((ROWS,), 2.0, "steps must be a whole number"),
        ((ROWS, NUMBERS[:-1]), 5, r"\[50, 49\] rows: time, the first axis, must be as long in all"),
        ((ROWS[:0],), 5, "have no rows"),
        ((ROWS, [1, 2]), 5, "array 1 is a list, expected a tensor, a NumPy array or an encoded text"),
        (("text",), 5, "array 0 is a str"),
        ((torch.tensor(3),), 5, "array 0 is a single number"),
        ((np.array(["a", "b"]),), 5, "array 0 holds <U1, which no tensor can"),
        ((np.array([None]),), 5, "array 0 holds object"),
    ],
)
def test_arrays_that_make_no_segments_are_refused(arrays, steps, message):
    with pytest.raises(InputError, match=message) as caught:
        Segments(*arrays, steps=steps)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "batch", "message"),
    [
        ([1, 2], None, "tokens is a list"),
        (NUMBERS, 0, "batch must be a whole number of at least 1"),
        (NUMBERS[:3], 3, "there are 3 tokens, and 3 at once need at least 4"),
        (NUMBERS[:1], None, "there are 1 tokens, and 1 at once need at least 2"),
        (ROWS, 2, r"shape \(50, 2, 3\): a batch is made of one sequence"),
    ],
)
def test_tokens_that_have_no_targets_are_refused(tokens, batch, message):
    with pytest.raises(InputError, match=message):
        inputs_and_targets(tokens, batch)


def test_a_file_that_goes_or_shrinks_is_told(tmp_path):
    large = np.zeros((10, 10_000))
    segments = Segments(in_file(tmp_path / "a", large), steps=2)
    with open(tmp_path / "a", "r+b") as file:
        file.truncate(330_000)
    assert segments[1].shape == (2, 10_000)
    with pytest.raises(DataError, match="shorter than it was"):
        segments[-1]
    (tmp_path / "a").unlink()
    with pytest.raises(DataError, match=r"cannot be read any more \(No such file"):
        segments[0]


WALK = """
import re, sys
import numpy as np
from unrolled.data import Segments, inputs_and_targets

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1000

rows = np.memmap(sys.argv[1], np.float32, "r", shape=(50_000, 500))
tokens = np.memmap(sys.argv[1], np.uint8, "r")
for segments in (Segments(rows, steps=500), Segments(*inputs_and_targets(tokens, 8), steps=100_000)):
    segments[0], segments[-1]
    before = peak()
    for _ in range(2):
        for segment in segments:
            pass
    print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is counted by Linux")
def test_walking_through_a_mapped_file_holds_no_more_than_a_segment(tmp_path):
    """Through 100 MB twice, in pieces of 1 MB, by rows and as eight streams."""
    with open(tmp_path / "a", "wb") as file:
        file.truncate(100_000_000)
    process = subprocess.run(
        [sys.executable, "-c", WALK, tmp_path / "a"], capture_output=True, text=True, check=True
    )
    assert all(float(grown) < 20 for grown in process.stdout.split())
    assert len(process.stdout.split()) == 2
