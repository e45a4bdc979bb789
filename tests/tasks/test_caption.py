"""Captions: batches, what is held out, ways for a picture to enter, hard attention, and figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from coloured import looker, shape, shapes
from unrolled import DataError, InputError
from unrolled.data.captions import CaptionedImage, CaptionedImages
from unrolled.data.images import fit
from unrolled.data.subwords import END, PAD, START
from unrolled.measures import caption_bleu, cider_d
from unrolled.nn.attention import doubly_stochastic
from unrolled.tasks import caption as caption_module
from unrolled.tasks.caption import CaptionTask, losses_of
from unrolled.tasks.caption_config import IMAGES, CaptionConfig
from unrolled.tasks.caption_data import CaptionData, Given, batch_of, divided
from unrolled.tasks.caption_scores import Scores, Written, focus
from unrolled.train.decoding import Decoding

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")

SMALL = {
    "hidden": 24, "embedding": 12, "picture": 12, "width": 12, "batch": 12, "steps": 90, "rate": 2e-2,
    "dropout": 0.0, "picture_dropout": 0.0, "smoothing": 0.0, "weight_decay": 0.0, "warmup": 5,
}  # fmt: skip

COLOURED = shapes()


def task_of(whole=COLOURED, **settings) -> CaptionTask:
    config = CaptionConfig(**{**SMALL, **settings})
    return CaptionTask(CaptionData(whole, config, looker=looker()), config)


@pytest.mark.parametrize("image", IMAGES)
def test_a_picture_that_enters_is_seen(image):
    """Of pictures that are held out the colour is said, which the commonest caption says of a third."""
    task = task_of(image=image, steps=250 if image == "hard" else 150)
    trainer = task.trainer()
    first = trainer.advance()["loss"]
    for _ in range(task.config.steps - 1):
        last = trainer.advance()["loss"]
    assert last < 0.5 * first
    written = task.written()
    right = [
        task.data.whole.items[each.place].captions[0].split()[1] in each.caption.split() for each in written
    ]
    assert len(right) == len(task.data.test) == 9
    assert sum(right) >= 8
    assert all((each.weights is None) == (image not in ("soft", "hard")) for each in written)


def test_every_caption_is_read_once_a_pass_in_any_order_of_steps():
    task = task_of(batch=9)
    places = {
        tuple(maps.flatten().tolist()): k for k, maps in enumerate(task.data.pictures.at(torch.arange(45)))
    }
    mirrored = task.data.pictures.at(torch.arange(45), torch.ones(45, dtype=torch.bool))
    places |= {tuple(maps.flatten().tolist()): k for k, maps in enumerate(mirrored)}
    passes = [
        [places[tuple(maps.flatten().tolist())] for step in steps for maps in task.data.batch(step).pictures]
        for steps in (range(8), range(8, 16))
    ]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(2 * task.data.train.tolist())
    assert passes[0] != passes[1]
    again, other = task_of(batch=9).data.batch(11), task.data.batch(11)
    for name in ("pictures", "read", "said", "there", "uniform"):
        assert torch.equal(getattr(again, name), getattr(other, name)), name


def test_what_is_shown_is_a_line_a_picture():
    """Also where it says one word after the other without an end."""
    task = task_of()
    lines = task.show(0).splitlines()
    assert [len(line) < 130 and "[people: A " in line for line in lines] == 5 * [True]


def test_mirrors_are_drawn():
    """Of every picture and its mirror image one is read, about as often the one as the other."""
    task = task_of(batch=36)
    plain = task.data.pictures.at(task.data.train)
    read = [task.data.batch(step).pictures for step in range(10)]
    same = sum(int((each[:, None] == plain[None]).flatten(2).all(2).any(1).sum()) for each in read)
    assert 0.35 < same / 360 < 0.65
    unturned = task_of(batch=36, flips=False).data.batch(0).pictures
    assert (unturned[:, None] == plain[None]).flatten(2).all(2).any(1).all()


def test_what_is_read_precedes_what_is_said():
    batch = batch_of(torch.zeros(3, 1), [[7, 8, 9, 10], [], [5]], longest=3)
    assert batch.read.T.tolist() == [[START, 7, 8], [START, PAD, PAD], [START, 5, PAD]]
    assert batch.said.T.tolist() == [[7, 8, 9], [END, PAD, PAD], [5, END, PAD]]
    assert batch.there.T.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    part = batch.part(rows=2, steps=1)
    assert (part.read.shape, part.pictures.shape) == ((1, 2), (2, 1))


def test_nearly_the_same_pictures_are_held_out_together():
    """Whichever of three copies is drawn, all are held out, and nothing else comes along."""
    torch.manual_seed(0)
    thumbs = torch.rand(40, 48)
    thumbs[7] = thumbs[21] + 0.05 * torch.rand(48)
    thumbs[35] = thumbs[7] + 0.05 * torch.rand(48)
    for seed in range(12):
        train, test, moved = divided(thumbs, 10, seed)
        assert sorted([*train.tolist(), *test.tolist()]) == [*range(40)]
        together = {7, 21, 35} & {*test.tolist()}
        assert len(together) in (0, 3)
        assert (len(test), moved) == (10 + moved, moved)
        assert moved <= 2
    assert {divided(thumbs, 10, seed)[2] for seed in range(12)} > {0}
    with pytest.raises(DataError, match="look the same"):
        divided(torch.zeros(4, 3), 1, 0)


def test_the_split_depends_on_its_own_seed_alone():
    one, other, third = (task_of(seed=s, split=p).data.test.tolist() for s, p in ((0, 0), (1, 0), (0, 1)))
    assert one == other != third


def test_baselines_are_what_they_say():
    task = task_of()
    data, pooled = task.data, task.data.pictures.at(torch.arange(45)).mean((2, 3))
    for place, near in data.nearest.items():
        alike = torch.nn.functional.cosine_similarity(pooled[data.train], pooled[place][None])
        assert float(torch.cosine_similarity(pooled[near], pooled[place], 0)) == pytest.approx(
            float(alike.max()), abs=1e-3
        )
    counts = [caption for place in data.train.tolist() for caption in data.whole.items[place].captions]
    assert counts.count(data.commonest) == max(map(counts.count, counts))
    people = data.references(data.test.tolist())
    assert task.baselines["commonest caption"] == Scores.of([data.commonest] * 9, people)


def test_figures_are_those_of_the_measures():
    found, people = ["a red bar", "a blue square"], [["A red bar."], ["A green square.", "a blue thing"]]
    scores = Scores.of(found, people)
    assert scores.bleu == caption_bleu(found, people).scores
    assert scores.cider == cider_d(found, people).score
    assert (scores.right, scores.count) == (2, 2)
    assert Scores.from_json(**{**vars(scores), "bleu": list(scores.bleu)}) == scores
    assert scores.record()["bleu_4"] == scores.bleu[3]


def written(pieces, weights) -> Written:
    return Written(0, "".join(pieces).strip(), tuple(pieces), -1.0, torch.tensor(weights))


def test_words_have_the_weights_of_what_they_are_spelled_with():
    found = written([" a", " red", "-", "nosed", ".", " !"], [[1.0], [2.0], [50.0], [4.0], [60.0], [70.0]])
    words, weights = found.by_word()
    assert words == ["a", "red-nosed."]
    assert weights.tolist() == [[1.0], [3.0]]
    assert written([], np.zeros((0, 4)).tolist()).by_word()[0] == []
    assert Written.from_json(found.to_json()).to_json() == found.to_json()


def test_weight_on_the_object_is_compared_with_equal_weights():
    """An object in one of four places: all weight there is four times as much; equal weights are once."""
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[:32, 32:] = 255
    there, equal, beside = [0.0, 1.0, 0.0, 0.0], [0.25] * 4, [1.0, 0.0, 0.0, 0.0]
    assert focus([written([" a"], [there])], [mask], (2, 2)).weights == pytest.approx(4)
    assert focus([written([" a", "."], [equal, there])], [mask], (2, 2)).weights == pytest.approx(1)
    found = focus([written([" a"], [there]), written([" a"], [beside])], [mask, mask.flip(1)], (2, 2))
    assert (found.weights, found.same, found.share) == pytest.approx((4, 2, 0.25))
    assert focus([written(["."], [there])], [mask], (2, 2)) is None


def test_masks_say_where_soft_attention_looked():
    task = task_of()
    assert 0.3 < task.focus(task.written()).weights < 3
    assert task_of(image="every").focus([]) is None
    assert task_of(replace(COLOURED, masks=None)).focus([]) is None


def test_hard_attention_learns_where_to_look_by_reward_alone():
    """Without a reward no gradient reaches the attention; with one it is that of REINFORCE."""
    for baseline in ("average", "learned"):
        task = task_of(image="hard", reinforce=0.0, entropy=0.0, baseline=baseline)
        task.gradients(0)
        looks = task.model.decoder.looks
        assert all(not p.grad.any() for p in (looks.query.weight, looks.key.weight, looks.scores))
        assert task.model.seen.weight.grad.any()
        task = task_of(image="hard", reinforce=1.0, baseline=baseline)
        task.gradients(0)
        assert task.model.decoder.looks.key.weight.grad.abs().max() > 1e-6


def test_hard_attention_writes_from_the_likeliest_places():
    """So captions are the same every time, whatever was drawn before."""
    task = task_of(image="hard")
    first = [each.caption for each in task.written()]
    torch.rand(10)
    assert [each.caption for each in task.written()] == first


def test_evenness_is_the_doubly_stochastic_penalty():
    """The gradient with it is that without it and that of the penalty."""

    def gradient(evenness):
        task = task_of(evenness=evenness)
        task.gradients(0)
        return task, task.model.decoder.looks.key.weight.grad

    (task, without), (_, with_it) = gradient(0.0), gradient(0.7)
    batch = task.data.batch(0)
    task.model.zero_grad()
    found = task.model(batch.read, batch.pictures)
    (0.7 * doubly_stochastic(found.weights, steps=batch.there)).backward()
    alone = task.model.decoder.looks.key.weight.grad
    torch.testing.assert_close(with_it, without + alone, rtol=1e-4, atol=1e-6)
    assert alone.abs().max() > 1e-5


@pytest.mark.parametrize("image", IMAGES)
def test_losses_are_the_log_likelihood(image):
    """The sum over words of a caption, as decoding has it too, where places are not drawn."""
    task = task_of(image=image)
    task.model.eval()
    batch = task.data.batch(0)
    losses = losses_of(task.model, batch).sum(0)
    assert losses_of(task.model, batch).shape[0] == len(batch.read) + (image == "first")
    if image != "hard":
        found = task.model(batch.read, batch.pictures)
        assert torch.allclose(
            -losses, task.model.decoder.log_likelihood(found.features, batch.said, batch.there), atol=1e-4
        )


def test_decoding_says_what_forward_does():
    """The log-probability of a caption written is that of reading it."""
    for image in ("soft", "first", "beside"):
        task = task_of(image=image)
        task.model.eval()
        place = task.data.test.tolist()[:1]
        (found,) = task.caption(place, Decoding(max_length=6))
        tokens = task.data.vocabulary.tokens
        ids = [tokens.index(piece.replace(" ", "▁")) for piece in found.pieces]
        batch = batch_of(task.data.pictures.at(torch.tensor(place)), [ids], 6)
        read = -float(losses_of(task.model, batch).detach().sum())
        assert found.log_probability == pytest.approx(read, rel=1e-4)


def test_features_are_seen_relative_to_their_mean():
    """A picture whose features are all three times as large is the same to the network."""
    model = task_of().model
    maps = torch.rand(2, 4, 4, 4)
    torch.testing.assert_close(model.features(3 * maps), model.features(maps))
    assert model.features(maps).mean(1).norm(dim=1).tolist() == pytest.approx([6.0, 6.0], rel=1e-4)
    assert model.features(torch.zeros_like(maps)).isfinite().all()


def test_a_small_encoder_learns_with_the_captions():
    task = task_of(encoder="small", steps=3)
    before = [p.clone() for p in task.model.encoder.parameters()]
    trainer = task.trainer()
    for _ in range(3):
        trainer.advance()
    assert all(not torch.equal(a, b) for a, b in zip(before, task.model.encoder.parameters(), strict=True))
    assert task.data.side == (6, 6)
    assert len(task.written()[0].weights[0]) == 36


def test_fine_tuning_leaves_the_statistics_of_the_encoder_alone(monkeypatch):
    """Its weights learn, the means and spreads it normalises by stay."""
    task = task_of(fine_tune=True, batch=2, steps=1, flips=False)
    network = task.model.encoder.network
    assert network.blocks[0].depthwise.norm.training is False
    means, weights = network.stem.norm.running_mean.clone(), network.head.convolution.weight.clone()
    with monkeypatch.context() as patch:
        patch.setattr(
            task.data.pictures.pictures, "at", lambda places: torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        )
        task.trainer().advance()
    assert torch.equal(network.stem.norm.running_mean, means)
    assert not torch.equal(network.head.convolution.weight, weights)


def test_squares_are_mirrored_where_that_is_asked():
    pictures = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    found = Given(pictures).at(torch.tensor([1, 0]), torch.tensor([True, False]))
    assert torch.equal(found[0], pictures[1].flip(2))
    assert torch.equal(found[1], pictures[0])


def test_few_pictures_are_refused():
    picture, _ = shape("bar", "red")
    one = CaptionedImages("one", (CaptionedImage("a", ("a bar",)),), [picture])
    with pytest.raises(DataError, match="two or more"):
        task_of(one)
    assert fit(picture, 16).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"image": "all"}, "--image is one of soft, hard, first, every, beside"),
        ({"encoder": "big"}, "--encoder is one of"),
        ({"encoder": "small", "fine_tune": True}, "the small encoder always learns"),
        ({"image": "first", "enters": "gated"}, "pictures that enter every step"),
        ({"image": "every", "evenness": 1.0}, "--evenness is for attention"),
        ({"holdout": 1.0}, "--holdout is a share"),
        ({"picture_dropout": 1.0}, "--picture-dropout is a probability"),
        ({"hidden": 0}, "--hidden"),
    ],
)
def test_settings_that_do_not_fit_are_told(settings, told):
    with pytest.raises(InputError, match=told):
        CaptionConfig(**settings)


def test_pictures_are_captioned_a_few_at_once(monkeypatch):
    """How many at once changes nothing, and the model is in training again afterwards."""
    task = task_of()
    at_once = [each.caption for each in task.written()]
    monkeypatch.setattr(caption_module, "ROWS", 2)
    assert [each.caption for each in task.written()] == at_once
    assert task.model.training
