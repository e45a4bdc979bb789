"""Models that label sequences: what they read, what padding changes, that they learn, and what goes on."""

import math
from dataclasses import replace

import pytest
import torch
from labelled import blobs, sentences, texts, waves

from unrolled.data.labelled import LabelledText
from unrolled.data.tagged import TaggedSentence
from unrolled.errors import DataError, InputError
from unrolled.nn.pooling import POOLINGS
from unrolled.tasks import labels_data
from unrolled.tasks.labels import LabelTask
from unrolled.tasks.labels_config import FramesConfig, SentimentConfig, SeriesConfig, TagsConfig
from unrolled.tasks.labels_data import Frames, Sentences, Texts, labels_in
from unrolled.tasks.labels_examples import NOTHING, Batch, Stored
from unrolled.tasks.labels_model import losses_of
from unrolled.tasks.labels_series import LabelledSeries, Nearest, read_table

SMALL = {"hidden": 8, "batch": 16, "warmup": 0, "rate": 0.02, "dropout": 0.0}
MOVING = SMALL | {"frames": 6, "channels": 4, "canvas": 6, "noise": 0.05}


def sentiment(**settings: object) -> LabelTask:
    config = SentimentConfig(**{**SMALL, "embedding": 8, **settings})
    return LabelTask("sentiment", Texts("texts", texts(), config), config)


def tags(**settings: object) -> LabelTask:
    config = TagsConfig(**{**SMALL, "embedding": 8, **settings})
    return LabelTask("tags", Sentences("sentences", sentences(), config), config)


def frames(**settings: object) -> LabelTask:
    config = FramesConfig(**{**MOVING, **settings})
    return LabelTask("frames", Frames.moving(blobs(), config), config)


def series(**settings: object) -> LabelTask:
    config = SeriesConfig(**{**SMALL, **settings})
    return LabelTask("series", LabelledSeries("waves", waves(), config), config)


TASKS = {"sentiment": sentiment, "tags": tags, "frames": frames, "series": series}
every = pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)


def trained(task: LabelTask, steps: int) -> LabelTask:
    trainer = task.trainer()
    for _ in range(steps):
        trainer.advance()
    return task


@pytest.mark.parametrize(
    ("make", "steps", "settings"),
    [
        *((sentiment, 60, {"pooling": pooling}) for pooling in POOLINGS),
        (
            sentiment,
            60,
            {"cell": "lstm(peepholes=vector)", "layers": 2, "norm": "layer", "bidirectional": False},
        ),
        (tags, 60, {}),
        (tags, 60, {"endings": 0, "cell": "mgu", "init": ("*.h=orthogonal",)}),
        (frames, 150, {"hide": 0.3, "hidden": 24}),
        (series, 60, {}),
        (series, 60, {"cell": "rnn", "pooling": "attention", "hidden": 16}),
    ],
)
def test_every_task_learns_with_any_cell(make, steps, settings):
    task = trained(make(**settings), steps)
    assert task.scores().share > 0.9, task.scores()


def test_a_word_that_means_two_things_is_told_by_what_is_around_it():
    """Which no counting of tags does."""
    task = trained(tags(), 60)
    assert task.baselines["most frequent tag"].share < 0.93
    assert task.scores().share > 0.98


@every
def test_padding_changes_nothing(make):
    """What is found for a sequence does not depend on the others of a batch, nor on what stands behind it."""
    task = make(dtype="float64")
    task.model.eval()
    if isinstance(task.data.test, Stored):
        batch = task.data.test.read(torch.arange(4))
    else:
        whole = task.data.train.batch(0)
        batch = Batch(whole.x[:, :4], torch.tensor([6, 2, 5, 1]), whole.labels[:, :4])
    beyond = torch.arange(len(batch.x))[:, None] >= batch.lengths
    other = batch.x.clone()
    other[beyond] = 1
    both = [task.model(x, batch.lengths) for x in (batch.x, other)]
    for b, length in enumerate(batch.lengths.tolist()):
        alone = task.model(batch.x[:length, b : b + 1], batch.lengths[b : b + 1])
        for found in both:
            part = found[b] if alone.ndim == 2 else found[:length, b]
            torch.testing.assert_close(part, alone[0] if alone.ndim == 2 else alone[:, 0])


@every
def test_the_loss_is_the_mean_over_what_has_a_label(make):
    task = make(dtype="float64")
    batch = task.data.train.batch(3)
    losses = losses_of(task.model.eval(), batch)
    there = batch.labels != NOTHING
    assert losses.shape == batch.labels.shape
    assert (losses[~there] == 0).all()
    loss, measured = task.gradients(3)
    assert loss == pytest.approx((losses.sum() / there.sum()).item(), rel=1e-12)
    assert measured[task.data.unit] == int(there.sum())
    scores = task.model(batch.x, batch.lengths)
    right = ((scores.argmax(-1) == batch.labels) & there).sum() / there.sum()
    assert measured["accuracy"] == pytest.approx(float(right))


@every
def test_step_n_reads_the_same_whenever_it_is_asked_for(make):
    one, two = make(), make()
    for step in (0, 1, 2, 1):
        a, b = (task.data.train.batch(step) for task in (one, two))
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.labels, b.labels)
    later = one.data.train.batch(40)
    assert later.x.shape != a.x.shape or not torch.equal(later.x, a.x)
    assert one.source == two.source
    assert make(seed=1).source["test_sha256"] == one.source["test_sha256"]


@every
def test_a_measurement_counts_every_held_out_label_once(make):
    task = make()
    found, expected, groups = task.measured()
    count = sum(int((batch.labels != NOTHING).sum()) for batch in task.data.test.batches())
    assert len(found) == len(expected) == len(groups) == count
    assert len({*groups}) == sum(len(batch.lengths) for batch in task.data.test.batches())
    got = task.evaluate()
    right = sum(a == b for a, b in zip(found, expected, strict=True))
    assert got["test_accuracy"] == right / count
    assert got["low"] <= got["test_accuracy"] <= got["high"]
    table = torch.tensor(task.confusion())
    assert table.sum() == count
    assert table.diagonal().sum() == right
    assert table.sum(1).tolist() == [expected.count(label) for label in range(len(task.data.classes))]


@every
def test_what_is_shown_says_what_is_found_and_what_is_right(make):
    task = trained(make(), 20)
    lines = task.show(20).splitlines()
    assert 1 <= len(lines) <= 6
    assert any(label in line for line in lines for label in task.data.classes)


def test_a_measurement_is_made_without_dropout_and_leaves_training_as_it_was():
    task = sentiment(dropout=0.5, word_dropout=0.5)
    task.model.train()
    assert task.evaluate() == task.evaluate()
    assert task.model.training
    state = torch.get_rng_state()
    task.evaluate()
    assert torch.equal(torch.get_rng_state(), state)


def test_words_are_dropped_in_training_alone():
    reader = sentiment(word_dropout=0.4).model.reader
    x = torch.ones(2000, 1, 1, dtype=torch.long)
    unknown = reader.columns[0].weight[0]
    dropped = (reader.train()(x) == unknown).all(-1).float().mean()
    assert dropped == pytest.approx(0.4, abs=0.04)
    assert not (reader.eval()(x) == unknown).all(-1).any()


def test_held_out_words_that_are_not_known_are_counted():
    task = tags(least=2)
    assert task.source["unknown"] == pytest.approx(
        sum(each.words[-1] not in task.data.lexicon.words for each in task.data.held_out)
        / task.source["held_out_words"]
    )


def test_texts_that_are_alike_are_not_in_both_parts():
    config = SentimentConfig(holdout=0.5)
    twice = [LabelledText(f"word {k // 2}", "ab"[k // 2 % 2]) for k in range(40)]
    data = Texts("t", twice, config)
    held = {each.text for each in data.held_out}
    assert len(data.held_out) == 2 * len(held) == 20


def test_the_network_that_sees_single_frames_knows_what_is_in_sight_and_guesses_the_rest(monkeypatch):
    monkeypatch.setattr(labels_data, "ALONE", 150)
    task = frames(hide=0.5, reappear=0.5, frames=12)
    alone = task.baselines["frame alone"]
    batches = [*task.data.test.batches()]
    moving = task.data.test
    sights = torch.cat([moving.drawn(len(b.lengths), 128 * k)[1].flatten() for k, b in enumerate(batches)])
    sight = float(sights.float().mean())
    assert 0.5 < sight < 0.6
    assert sight < alone.share < sight + (1 - sight) * 0.5
    assert task.baselines["majority"].share < 0.45


def test_labels_are_taken_of_steps_that_are_there():
    labels = torch.tensor([[1, 2], [0, NOTHING]])
    batch = Batch(torch.zeros(2, 2), torch.tensor([2, 1]), labels)
    assert labels_in([batch, batch]) == ([1, 2, 0, 1, 2, 0], [0, 1, 0, 2, 3, 2])


def test_the_nearest_series_is_the_one_with_the_least_mean_square_between():
    train = [torch.tensor([0.0, 0, 0, 0]), torch.tensor([1.0, 1])]
    nearest = Nearest(train, [5, 7])
    assert nearest([torch.tensor([0.4, 0.4]), torch.tensor([0.6, 0.6, 0.0]), torch.tensor([1.0])]) == [
        5,
        7,
        7,
    ]


def test_series_are_read_with_mean_0_and_variance_1_of_those_to_train_on():
    task = series()
    read = task.model.reader(task.data.train.steps)
    assert float(read.mean()) == pytest.approx(0, abs=1e-5)
    assert float(read.std()) == pytest.approx(1, abs=1e-5)


def test_a_table_of_series_is_read(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("1\t0.5\t-2e-1\tNaN\n\n-1\t3\n")
    (one, a), (two, b) = read_table(path)
    assert (one, a.tolist(), two, b.tolist()) == ("1", [0.5, -0.2], "-1", [3.0])
    path.write_text("up, 1, 2\ndown, 3\n")
    assert [label for label, _ in read_table(path)] == ["up", "down"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("a\t1\nb\tx\n", "line 2 of .* has 'x' where a number should be"),
        ("a\t1\nb\n", "line 2 of .* has no numbers"),
        ("a\t1\nb\tNaN\n", "line 2 of .* has no numbers"),
        ("\t1\n", "line 1 of .* has no label"),
        ("a\t1\tnan\t2\n", "line 1 of .* has a gap or an infinite number"),
        ("a\tinf\n", "line 1 of .* has a gap or an infinite number"),
    ],
)
def test_a_table_that_is_none_is_told(tmp_path, content, said):
    path = tmp_path / "t.tsv"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        read_table(path)


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        (SentimentConfig, {"pooling": "sum"}, "--pooling is one of last, mean, max, attention, got 'sum'"),
        (SentimentConfig, {"hidden": 0}, "--hidden must be a whole number of at least 1, got 0"),
        (SentimentConfig, {"dropout": 1.0}, "--dropout is a probability from 0 and below 1, got 1.0"),
        (SentimentConfig, {"word_dropout": -0.1}, "--word-dropout is a probability"),
        (SentimentConfig, {"holdout": 0.0}, "--holdout is a share above 0 and below 1"),
        (SentimentConfig, {"least": 0}, "--least must be a whole number"),
        (TagsConfig, {"endings": 9}, "--endings must be at most 8, got 9"),
        (TagsConfig, {"endings": -1}, "--endings cannot be negative"),
        (TagsConfig, {"split": -1}, "--split cannot be negative"),
        (FramesConfig, {"hide": 1.5}, "--hide is a probability from 0 to 1, got 1.5"),
        (FramesConfig, {"noise": math.nan}, "--noise must be a finite number from 0, got nan"),
        (FramesConfig, {"canvas": 0}, "--canvas must be a whole number"),
        (SeriesConfig, {"pooling": "none"}, "--pooling is one of"),
    ],
)
def test_settings_that_do_not_fit_are_named(config, settings, said):
    with pytest.raises(InputError, match=said):
        config(**settings)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Texts("t", texts(3)[::2], SentimentConfig()), "t has no label but 'negative', so there is"),
        (lambda: Texts("t", texts(40), SentimentConfig(least=99)), "no word is there 99 times"),
        (
            lambda: Sentences("s", [TaggedSentence((str(k),), (str(k),)) for k in range(1001)], TagsConfig()),
            "s has 1,001 different labels, and at most 1,000",
        ),
        (
            lambda: Frames.moving(blobs(), FramesConfig(canvas=3)),
            "--canvas 3 has no room for pictures of 4 x 4",
        ),
        (
            lambda: LabelledSeries("w", waves(4), SeriesConfig(), [("x", torch.ones(3))]),
            "label 'x' of w is held",
        ),
    ],
)
def test_data_that_cannot_be_learned_are_told(made, said):
    with pytest.raises((DataError, InputError), match=said):
        made()


def test_moving_digits_are_what_they_are_said_to_be():
    """Without noise every frame in sight holds one picture of its label, a hidden one nothing; a hidden digit
    is the one seen last, and others come where they may."""
    pictures = blobs()
    config = replace(FramesConfig(), frames=40, noise=0.0, change=0.3, hide=0.3, reappear=0.4, canvas=7)
    moving = Frames.moving(pictures, config).test
    batch, sight = moving.drawn(60, 5)
    known = {
        tuple(p.flatten().tolist()): int(k)
        for p, k in zip(moving.pictures.pixels, moving.pictures.labels, strict=True)
    }
    changes, hidden_changes = 0, 0
    places = []
    for b in range(60):
        for t in range(40):
            frame = batch.x[t, b]
            if not sight[t, b]:
                assert (frame == 0).all()
                hidden_changes += int(batch.labels[t, b] != batch.labels[t - 1, b])
                continue
            windows = frame.unfold(0, 4, 1).unfold(1, 4, 1)
            found = [
                (r, c)
                for r in range(4)
                for c in range(4)
                if windows[r, c].count_nonzero() == frame.count_nonzero()
            ]
            labels = {known.get(tuple(windows[r, c].flatten().tolist())) for r, c in found}
            assert int(batch.labels[t, b]) in labels
            places += found
            if t and sight[t - 1, b]:
                changes += int(batch.labels[t, b] != batch.labels[t - 1, b])
    assert sight[0].all()
    assert hidden_changes == 0
    assert {*places} == {(r, c) for r in range(4) for c in range(4)}
    both = (sight[1:] & sight[:-1]).sum()
    assert changes / int(both) == pytest.approx(0.3 * 2 / 3, abs=0.05)
    assert float((~sight[1:] & sight[:-1]).sum() / sight[:-1].sum()) == pytest.approx(0.3, abs=0.04)
    assert float((sight[1:] & ~sight[:-1]).sum() / (~sight[:-1]).sum()) == pytest.approx(0.4, abs=0.05)
    returned = sight[1:] & ~sight[:-1]
    assert (batch.labels[1:][returned] == batch.labels[:-1][returned]).all()


def test_noise_is_normal_and_of_its_size():
    config = replace(FramesConfig(), noise=0.3, hide=1.0, reappear=0.0)
    batch, sight = Frames.moving(blobs(), config).train.drawn(50, 0)
    noise = batch.x[~sight]
    assert not sight[1:].any()
    assert float(noise.std()) == pytest.approx(0.3, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0, abs=0.003)


def test_a_digit_moves_in_a_straight_line_and_bounces():
    config = replace(FramesConfig(), noise=0.0, change=0.0, hide=0.0, canvas=30, frames=60)
    batch, _ = Frames.moving(blobs(), config).train.drawn(20, 0)
    rows = (batch.x.sum(3) > 0).float().argmax(2)
    steps = rows.diff(dim=0)
    assert steps.abs().max() <= 3
    turned = (steps[1:].sign() * steps[:-1].sign() < 0).sum(0)
    assert turned.float().mean() > 1
    assert rows.max() > 20
