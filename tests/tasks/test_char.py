"""Character models: the published character network, a four-letter vocabulary, and what a run promises."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.published import LIBRARY_NAMES, PUBLISHED, Array, Oracle
from unrolled import CheckpointError, InputError
from unrolled.data import Text, baselines, encoded, split
from unrolled.tasks.char import CharConfig, CharTask, bits_per_character, evaluating, write


def a_text(length: int, seed: int = 0) -> str:
    """Words drawn at random from a small vocabulary: something a small network can learn."""
    words = ["to", "be", "or", "not", "that", "is", "the", "question", "nobler", "in", "mind", "arrows"]
    drawn = np.random.default_rng(seed).choice(words, size=length // 3)
    return " ".join(drawn)[:length]


def relative_error(found: torch.Tensor, expected: Array) -> float:
    return float(np.linalg.norm(found.detach().numpy() - expected) / np.linalg.norm(expected))


def test_the_trainer_makes_the_steps_of_the_published_character_network() -> None:
    """At each of the oracle's first 200 states: the same loss, gradients and update to 1e-10 relative."""
    text = a_text(7000)
    task = CharTask("text", text, PUBLISHED)
    trainer = task.trainer()
    oracle = Oracle(len(task.vocabulary))
    ids = task.vocabulary.encode(text).tolist()
    parameters = dict(task.model.named_parameters())
    sums = iter(trainer.optimiser.state[trainer.whole]["sum"].split([p.numel() for p in parameters.values()]))
    of_parameter = {name: next(sums).view_as(p) for name, p in parameters.items()}
    memory = {name: of_parameter[LIBRARY_NAMES[name]] for name in oracle.weights}
    clipped = 0
    for n in range(200):
        before = {name: value.copy() for name, value in oracle.weights.items()}
        for name, value in oracle.weights.items():
            parameter = parameters[LIBRARY_NAMES[name]]
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(value))
            memory[name].copy_(torch.from_numpy(oracle.memory[name] + 1e-8))
        task.state = {"h": torch.from_numpy(oracle.h.copy())[None, None]}
        trainer.step = n

        record = trainer.advance()
        loss, gradients = oracle.gradients(ids[25 * n : 25 * n + 25], ids[25 * n + 1 : 25 * n + 26])
        oracle.update(gradients)
        clipped += any((np.abs(g) == 5).any() for g in gradients.values())

        assert record["loss"] == pytest.approx(loss, rel=1e-10), n
        for name, gradient in gradients.items():
            parameter = parameters[LIBRARY_NAMES[name]]
            assert parameter.grad is not None
            assert relative_error(parameter.grad, gradient) < 1e-10, (n, name)
            moved = parameter.detach() - torch.from_numpy(before[name])
            assert relative_error(moved, oracle.weights[name] - before[name]) < 1e-10, (n, name)
        assert relative_error(task.state["h"][0, 0], oracle.h) < 1e-10, n
    assert clipped > 3, "the case must exercise the clipping"


SMALL = CharConfig(hidden=8, batch=4, bptt=8, steps=12, layers=2, dropout=0.3)


@pytest.mark.parametrize("loss", ["mean", "sum"])
@pytest.mark.parametrize("cell", ["lstm", "gru_cho", "indrnn"])
def test_a_step_without_autograd_is_the_step_with_it(cell: str, loss: str) -> None:
    config = replace(SMALL, cell=cell, dropout=0.0, loss=loss, dtype="float64")
    tasks = [CharTask("text", a_text(400), config) for _ in range(2)]
    trainers = [task.trainer() for task in tasks]
    assert tasks[0].direct is not None
    tasks[1].direct = None
    for _ in range(8):
        records = [trainer.advance() for trainer in trainers]
        assert records[0] == pytest.approx(records[1], rel=1e-12)
    assert torch.allclose(trainers[0].whole, trainers[1].whole, rtol=1e-9, atol=0)


def test_four_letters_learn_hello_and_complete_it() -> None:
    config = CharConfig(cell="rnn", hidden=8, batch=1, bptt=5, steps=150, rate=0.03, warmup=0)
    task = CharTask("hello", "hello" * 40, config)
    assert task.vocabulary.symbols == "ehlo"
    trainer = task.trainer()
    for _ in range(config.steps):
        trainer.advance()
    assert "".join(write(task.model, task.vocabulary, "h", 4, temperature=0)) == "ello"


def bits_one_by_one(task: CharTask, ids: torch.Tensor) -> float:
    """The same measurement, written out: 64 streams and a rest, each from the zero state."""
    length = (len(ids) - 1) // 64
    pieces = [ids[b * length : b * length + length + 1] for b in range(64)] + [ids[64 * length :]]
    nats = 0.0
    with evaluating(task.model), torch.no_grad():
        for piece in pieces:
            if len(piece) > 1:
                logits, _ = task.model(piece[:-1, None])
                nats -= logits[:, 0].log_softmax(1).gather(1, piece[1:, None]).sum().item()
    return nats / (len(ids) - 1) / math.log(2)


def test_every_held_out_character_but_the_first_counts_once() -> None:
    task = CharTask("text", a_text(4000), replace(SMALL, dtype="float64"))
    ids = task.vocabulary.encode(a_text(1000, seed=1))
    assert bits_per_character(task.model, ids) == pytest.approx(bits_one_by_one(task, ids), rel=1e-10)


def test_the_state_is_carried_and_reset_where_the_text_begins_again() -> None:
    task = CharTask("text", a_text(300), replace(SMALL, dropout=0.0))
    chunks = len(task.streams)
    assert chunks > 2
    losses = [task.gradients(step)[0] for step in range(chunks + 1)]
    assert losses[chunks] == losses[0]
    task.state = None
    assert task.gradients(1)[0] != losses[1], "the second chunk starts where the first one ended"


def test_the_loss_is_the_mean_or_the_sum_over_the_steps() -> None:
    of = {kind: CharTask("text", a_text(400), replace(SMALL, loss=kind)) for kind in ("mean", "sum")}
    for task in of.values():
        task.model.eval()
    mean, sum_ = (of[kind].gradients(0) for kind in ("mean", "sum"))
    assert sum_[0] == pytest.approx(8 * mean[0], rel=1e-6)
    assert sum_[1] == mean[1]
    assert mean[1]["bits_per_character"] == pytest.approx(mean[0] / math.log(2), rel=1e-6)


def test_a_sample_is_the_chain_of_its_own_characters() -> None:
    task = CharTask("text", a_text(4000), SMALL)
    with evaluating(task.model), torch.no_grad():
        written = "".join(write(task.model, task.vocabulary, "to be ", 30, temperature=0))
        logits, _ = task.model(task.vocabulary.encode("to be " + written)[:-1, None])
    assert task.vocabulary.decode(logits[5:, 0].argmax(1)) == written


def test_streams_start_again_from_zero_now_and_then() -> None:
    """About one stream in five starts again at `reset=0.2`; the draw depends on nothing but seed and step."""
    task = CharTask("text", a_text(10000), replace(SMALL, dropout=0.0, reset=0.2, batch=16))
    starts = task.model.layer.initial_state(16)
    again = 0
    for step in range(1, 60):
        task.state = {name: value + 1 for name, value in starts.items()}
        kept: list[torch.Tensor] = []
        hook = task.model.register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[1]["h"]))
        task.gradients(step)
        hook.remove()
        (h,) = kept
        zero = (h == 0).all(2).all(0)
        assert (h[:, ~zero] == 1).all()
        again += int(zero.sum())
    assert 0.15 < again / (59 * 16) < 0.25


def test_top_k_and_temperature_draw_from_the_distribution_they_name() -> None:
    from unrolled.train.sampling import draw

    generator = torch.Generator().manual_seed(3)
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    drawn = torch.stack([draw(logits, 0.7, 3, generator=generator) for _ in range(20000)])
    kept = torch.tensor([-torch.inf, 1.0, 2.0, -torch.inf, 0.5])
    expected = torch.softmax(kept / 0.7, 0)
    found = torch.bincount(drawn, minlength=5) / len(drawn)
    assert (found - expected).abs().max() < 0.015
    assert found[0] == found[3] == 0
    assert int(draw(logits, 0)) == 2
    assert int(draw(logits, 1e-300)) == 2


@pytest.mark.parametrize(
    ("prime", "length", "temperature", "top_k"),
    [("", 5, 1.0, None), ("a", -1, 1.0, None), ("a", 5, -0.1, None), ("a", 5, 1.0, 0)],
)
def test_sampling_refuses_what_it_cannot_do(
    prime: str, length: int, temperature: float, top_k: int | None
) -> None:
    task = CharTask("text", a_text(400), SMALL)
    with pytest.raises(InputError):
        write(task.model, task.vocabulary, prime, length, temperature=temperature, top_k=top_k)


def test_a_checkpoint_of_another_size_does_not_fit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from unrolled.train import checkpoint, runs
    from unrolled.train.loop import restore_model

    run = runs.create(tmp_path, "r")
    CharTask("text", a_text(400), SMALL).trainer().save(run, keep=1)
    other = CharTask("text", a_text(400), replace(SMALL, hidden=9))
    with pytest.raises(
        CheckpointError, match=r"another model: head.weight is \(\d+, 8\) there and \(\d+, 9\)"
    ):
        restore_model(other.model, checkpoint.load(next(run.checkpoints.iterdir())))


@pytest.fixture
def long_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Text]:
    """Write a text to a file that counts as a long one."""
    monkeypatch.setattr(encoded, "IN_MEMORY", 0)

    def open_as_long(characters: str) -> Text:
        (tmp_path / "long.txt").write_text(characters)
        return Text.open(tmp_path / "long.txt")

    return open_as_long


def test_a_text_in_a_file_trains_as_in_memory_bit_for_bit(long_text: Callable[[str], Text]) -> None:
    """Through two epochs: records, weights, the state, and what is measured and compared with."""
    config = replace(SMALL, reset=0.3)
    tasks = [CharTask("text", text, config) for text in (a_text(1000), long_text(a_text(1000)))]
    trainers = [task.trainer() for task in tasks]
    assert tasks[0].facts() == tasks[1].facts()
    for _ in range(2 * len(tasks[0].streams) + 1):
        torch.manual_seed(trainers[0].step)  # of dropout
        one = trainers[0].advance()
        torch.manual_seed(trainers[1].step)
        assert trainers[1].advance() == one
    assert torch.equal(trainers[0].whole, trainers[1].whole)
    assert tasks[0].evaluate() == tasks[1].evaluate()
    assert tasks[0].baselines == tasks[1].baselines
    assert all(torch.equal(a, b) for a, b in zip(*(t.tensors().values() for t in tasks), strict=True))


@pytest.mark.parametrize("in_file", [False, True])
def test_no_more_is_measured_and_counted_than_the_limits_say(
    long_text: Callable[[str], Text], in_file: bool
) -> None:
    """The first of what is held out, and the last of the rest; without limits, or below them, all."""
    text = a_text(4000)
    train, tail = split(text, 0.25)

    def task(**limits: int) -> CharTask:
        made = replace(SMALL, holdout=0.25, **limits)
        return CharTask("text", long_text(text) if in_file else text, made)

    def expected(train: str, tail: str) -> dict[str, float]:
        vocabulary = task().vocabulary
        return baselines(vocabulary.encode(train), vocabulary.encode(tail), len(vocabulary))

    for whole in (task(), task(evaluate_characters=1000, ngram_characters=3000),
                  task(evaluate_characters=0, ngram_characters=0)):  # fmt: skip
        assert whole.limits is None
        assert whole.baselines == expected(train, tail)
    limited = task(evaluate_characters=70, ngram_characters=500)
    assert limited.baselines == expected(train[-500:], tail[:70])
    ids = limited.vocabulary.encode(tail[:70])
    assert limited.evaluate() == {"held_out_bits_per_character": bits_per_character(limited.model, ids)}
    assert limited.limits == (
        "70 of 1,000 held-out characters are measured (--evaluate-characters), "
        "500 of 3,000 training characters are counted by n-gram models (--ngram-characters)"
    )


@pytest.mark.parametrize(
    "limits", [{"evaluate_characters": 1}, {"ngram_characters": 4}, {"ngram_characters": -1}]
)
def test_limits_that_leave_nothing_to_measure_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(
        InputError, match=r"--(evaluate|ngram)-characters must be at least [25], or 0 for all"
    ):
        replace(SMALL, **limits)
