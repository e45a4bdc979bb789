"""A translator learns, is measured as it should be, and its parts hold their laws."""

import math

import pytest
import torch
import torch.nn.functional as F

from cases import one_line
from unrolled.data.pairs import Pair
from unrolled.data.subwords import END, START
from unrolled.errors import DataError, InputError
from unrolled.tasks.symbols import symbol_pairs
from unrolled.tasks.translate import TranslateTask, losses_of, mixed
from unrolled.tasks.translate_config import TranslateConfig
from unrolled.tasks.translate_data import Encoded, Origin, Sides, checksum
from unrolled.tasks.translate_scores import Nearest, baselines, by_length, scores, signed
from unrolled.tasks.translate_write import translations, words_of, write
from unrolled.train.decoding import Decoding

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")

PAIRS = symbol_pairs("reverse(symbols=6, shortest=1, longest=5, pairs=400)")
SMALL = {
    "hidden": 16, "embedding": 12, "batch": 20, "holdout": 40, "dropout": 0.0, "label_smoothing": 0.0,
    "warmup": 5, "rate": 0.02, "translated": 0,
}  # fmt: skip


def task_of(pairs=PAIRS, **options):
    return TranslateTask("pairs", pairs, TranslateConfig(**(SMALL | options)))


@pytest.mark.parametrize("options", [
    {"attention": "after"}, {"attention": "inside", "enters": "fed", "cell": "gru"},
    {"attention": "none", "joint": False, "tied": False}, {"vocabulary": "words", "layers": 2},
])  # fmt: skip
def test_a_translator_learns_to_reverse(options):
    """What it says of held-out sequences gets likelier, and right, for each kind of network."""
    steps = 250
    task = task_of(steps=steps, **options)
    trainer = task.trainer()
    before = task.evaluate()
    for _ in range(steps):
        trainer.advance()
    after = task.evaluate()
    assert after["held_out_nats_per_token"] < 0.35 * before["held_out_nats_per_token"]
    assert before["exact"] < 0.2
    assert after["exact"] > 0.25
    assert after["chrf"] > before["chrf"] + 20


def test_losses_are_the_cross_entropy_of_right_translations():
    """In nats per token, padding and START not counted, END counted."""
    task = task_of()
    total = words = last = 0.0
    for pair in task.held_out:
        (source,), (target,) = (
            side.encode([text])
            for side, text in ((task.sides.source, pair.source), (task.sides.target, pair.target))
        )
        read = task.model(torch.tensor([*source, END])[:, None], torch.tensor([START, *target])[:, None])
        logits = task.model.decoder.logits(read.features)[:, 0]
        total += F.cross_entropy(logits, torch.tensor([*target, END]), reduction="sum").item()
        last += F.cross_entropy(logits[-1], torch.tensor(END)).item()
        words += len(target) + 1
    assert task.nats() == pytest.approx(total / words, rel=1e-5)
    batch = next(task.test.batches())
    assert losses_of(task.model, batch).sum().item() == pytest.approx(last, rel=1e-5)


def test_the_gradient_is_that_of_the_mean_over_words():
    task = task_of(label_smoothing=0.1, steps=3)
    batch, value = task.batch(0), task.gradients(0)[0]
    found = {name: p.grad.clone() for name, p in task.model.named_parameters() if p.grad is not None}
    task.model.zero_grad()
    logits = task.model.decoder.logits(task.model(batch.source, batch.read, batch.lengths).features)
    loss = F.cross_entropy(logits[batch.there], batch.said[batch.there], label_smoothing=0.1)
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-5)
    for name, gradient in found.items():
        torch.testing.assert_close(
            dict(task.model.named_parameters())[name].grad, gradient, atol=1e-6, rtol=1e-3
        )


def test_batches_hold_every_sentence_once_a_pass_and_little_padding():
    task = task_of()
    per_pass = len(task.train) // 20
    seen = []
    for step in range(per_pass):
        batch = task.batch(step)
        assert batch.there[0].all()
        torch.testing.assert_close(batch.read[1:][batch.there[1:]], batch.said[:-1][batch.there[1:]])
        ends = batch.said.masked_fill(~batch.there, 0).eq(END).sum(0)
        assert (ends == 1).all()
        assert batch.there.float().mean() > 0.85
        seen += [tuple(column.tolist()) for column in batch.source.t()]
    assert len(seen) == len(task.train)


def test_batches_may_have_so_many_tokens():
    task = task_of(batch_tokens=60)
    sizes = [task.batch(step).read.numel() for step in range(30)]
    assert max(sizes) <= 60
    assert sum(sizes) > 30 * 40


def test_no_held_out_sentence_is_seen_in_training():
    task = task_of()
    for side in ("source", "target"):
        assert not {getattr(p, side) for p in task.train_pairs} & {getattr(p, side) for p in task.held_out}
    assert len(task.held_out) == 40
    words = task_of([Pair(f"word{k} a", f"wort{k} b") for k in range(100)], vocabulary="words").sides
    known = {*words.source.tokens}
    assert sum(f"▁word{k}" in known for k in range(100)) == 60  # of the part to train on alone


def test_long_sentences_are_left_out_of_training_alone():
    pairs = [*PAIRS, Pair("a " * 50, "b"), Pair("c", "d " * 50)]
    task = task_of(pairs, longest=8)
    assert task.source["left_out_as_too_long"] in (1, 2)
    assert max(map(len, task.train.targets)) <= 8
    assert len(task.test) == len(task.held_out)
    with pytest.raises(DataError, match="every sentence to train on has more than 1 tokens"):
        task_of(
            [Pair("a b c", "d e f"), Pair("g h i", "j k l"), Pair("m n o", "p q r")], longest=1, holdout=1
        )


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [("linear", [0.0, 0.2, 0.4]), ("exponential", [0.0, 0.352, 0.4]), ("sigmoid", [0.0, 0.2, 0.4])],
)
def test_the_share_of_own_words_rises(schedule, shares):
    task = task_of(scheduled_sampling=0.4, sampling_schedule=schedule, steps=100)
    found = [task.share_of_own(step) for step in range(101)]
    assert found == sorted(found)
    assert [found[0], found[50], found[100]] == pytest.approx(shares, abs=1e-3)
    if schedule == "sigmoid":
        assert found[20] < 0.25 * 0.2


def test_own_words_are_read_in_their_share_of_places():
    """At share 0 nothing changes; at 1 all words but START are as likely as the model has them."""
    task = task_of()
    batch = task.batch(0)
    torch.manual_seed(1)
    assert torch.equal(mixed(task.model, batch, 0.0).read, batch.read)
    own = mixed(task.model, batch, 1.0)
    assert torch.equal(own.read[0], batch.read[0])
    assert torch.equal(own.said, batch.said)
    share = torch.stack([(mixed(task.model, batch, 0.5).read != batch.read)[1:] for _ in range(40)])
    always = torch.stack([(mixed(task.model, batch, 1.0).read != batch.read)[1:] for _ in range(40)])
    assert share.float().mean().item() == pytest.approx(0.5 * always.float().mean().item(), rel=0.05)


def test_drawn_words_follow_the_model():
    task = task_of()
    batch = task.batch(0).part(1, 2)
    state = task.model.encode(batch.source, batch.lengths)
    logits, _, _ = task.model.step(batch.read[0], state)
    wide = type(batch)(*(
        getattr(batch, name).expand(*getattr(batch, name).shape[:-1], 20_000)
        for name in ("source", "lengths", "read", "said", "there")
    ))  # fmt: skip
    torch.manual_seed(0)
    drawn = mixed(task.model, wide, 1.0).read[1]
    shares = drawn.bincount(minlength=logits.shape[1]) / 20_000
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.012, rtol=0)


def test_training_on_own_words_learns_too():
    task = task_of(scheduled_sampling=0.3, steps=120)
    trainer = task.trainer()
    first = trainer.advance()["loss"]
    for _ in range(119):
        last = trainer.advance()["loss"]
    assert last < 0.6 * first


def test_baselines_are_what_they_say():
    train = [
        Pair("Der Hund schläft .", "The dog sleeps ."),
        Pair("Die Katze frisst viel .", "The cat eats a lot ."),
    ]
    nearest = Nearest(train)
    assert nearest("Der alte Hund schläft") == "The dog sleeps ."
    assert nearest("Die Katze frisst nichts") == "The cat eats a lot ."
    assert nearest("Xyz") == "The dog sleeps ."
    held = [Pair("Der Hund schläft .", "The dog sleeps ."), Pair("a b c d", "a b c d")]
    found = baselines(train, held)
    assert found["nearest sentence"].exact == found["copy of the source"].exact == 0.5
    assert scores(["x"], ["x"]).exact == 1.0


def test_similar_is_what_shares_rare_words():
    train = [Pair("a a b c", "1"), Pair("a a d e", "2"), Pair("a f g h", "3")]
    assert Nearest(train)("a a a e") == "2"
    assert Nearest(train)("A F x") == "3"


def test_scores_tell_how_they_were_computed():
    found = signed(["the dog sleeps here"] * 9, ["the dog sleeps here", "the dog", "a b"] * 3, resamples=20)
    assert found.exact == pytest.approx(1 / 3)
    assert "tok:13a" in found.bleu.signature
    assert found.bleu.interval is not None
    assert f"{found.plain}".startswith("BLEU ")
    assert "chrF2|nrefs:1" in str(found)
    lower = signed(["THE DOG"], ["the dog"], lowercase=True)
    assert lower.exact == 1.0
    assert lower.chrf.score == pytest.approx(100)


def test_scores_by_length_are_those_of_their_sentences():
    sources = ["a"] * 3 + ["a b"] * 4 + ["a b c d"] * 5
    right = ["one two three four five"] * 12
    found = right[:3] + ["no"] * 4 + right[7:]
    groups = by_length(sources, found, right)
    assert [(g.low, g.high, g.count, g.scores.exact) for g in groups] == [
        (1, 1, 3, 1.0), (2, 2, 4, 0.0), (4, 4, 5, 1.0),
    ]  # fmt: skip
    assert [g.label for g in by_length(sources, found, right, groups=2)] == ["1 to 2", "4"]
    assert sum(g.count for g in by_length(sources, found, right, groups=3)) == 12
    assert groups[0].scores.bleu == pytest.approx(100)


def test_translations_of_many_lines_are_those_of_each():
    task = task_of()
    trainer = task.trainer()
    for _ in range(60):
        trainer.advance()
    lines = [*(pair.source for pair in task.held_out[:7]), "", "  ", "a b", "b"]
    for options in (Decoding(), Decoding(beam=3)):
        together = [*translations(task.model, task.sides, lines, options, at_once=5)]
        assert [each.source for each in together] == lines
        for line, each in zip(lines, together, strict=True):
            (alone,) = translations(task.model, task.sides, [line], options)
            assert alone.text == each.text
            assert alone.score == pytest.approx(each.score, abs=1e-4)
        assert [each.text for each in together[7:9]] == ["", ""]
        assert task.model.training


def test_weights_are_of_words_and_add_up():
    pairs = [Pair("unbelievably long, said he", "unglaublich lang, sagte er")] * 3 + PAIRS
    task = task_of(pairs, vocabulary_size=60)
    (found,) = translations(task.model, task.sides, ["unbelievably long, said Щ he"])
    assert found.source_words == ("unbelievably", "long", ",", "said", "Щ", "he", "(end)")
    assert len(found.weights) == len(found.target_words) > 0
    for row in found.weights:
        assert len(row) == 7
        assert sum(row) == pytest.approx(1, abs=1e-5)
    without = task_of(attention="none")
    (found,) = translations(without.model, without.sides, ["a b"])
    assert found.weights is None


def test_an_unknown_word_is_the_one_that_was_looked_at():
    """If it may be written, it is written as it stands in the source."""
    task = task_of(vocabulary="words", vocabulary_size=8)
    with torch.no_grad():
        task.model.decoder.head.bias[3] = 50.0  # UNKNOWN
    options = Decoding(unknown=True, max_length=3)
    (found,) = translations(task.model, task.sides, ["Haus Щ"], options)
    looked = [max(range(2), key=row.__getitem__) for row in found.weights]
    assert found.text.split() == [("Haus", "Щ")[k] for k in looked]
    (other,) = translations(task.model, task.sides, ["Haus Щ"], Decoding(max_length=3))
    assert not {"Haus", "Щ", "<unknown>"} & {*other.text.split()}


def test_words_are_joined_from_their_pieces():
    pieces = [" Er", " sag", "te", ":", " „", "Ja", "“", " ", "x", "y", " 3", ",", "50"]
    words = ["".join(pieces[k] for k in word).strip() for word in words_of(pieces)]
    assert words == ["Er", "sagte", ":", "„", "Ja", "“", "xy", "3", ",", "50"]
    assert words_of([]) == []
    assert words_of(["a"]) == [[0]]


def test_what_is_written_ends_in_time():
    task = task_of()
    with torch.no_grad():
        task.model.decoder.head.bias[END] = -50.0
    found = write(task.model, [[5, 6, END], [5, END]])
    assert [len(each.tokens) for each in found] == [16, 14]
    found = write(task.model, [[5, 6, END]], Decoding(max_length=7))
    assert len(found[0].tokens) == 7
    found = write(task.model, [[5, 6, END]], Decoding(min_length=30))
    assert len(found[0].tokens) == 30


def test_pairs_come_from_one_place():
    for options, message in (
        ({"source": "a"}, "--source goes with --target"),
        ({"target": "a"}, "--target goes with --source"),
        ({"data": "reverse", "source": "a", "target": "b"}, "--source and --target are files in place of"),
    ):
        with pytest.raises(InputError) as caught:
            Origin(**options)
        assert one_line(caught.value).startswith(message)
    with pytest.raises(InputError, match="give a data set such as german-english"):
        Origin().read()
    with pytest.raises(DataError, match="no data set"):
        Origin("nothing").read()
    assert len(Origin("copy(pairs=7)").read()) == 7
    assert Origin.from_json(Origin("copy(pairs=7)").to_json()) == Origin("copy(pairs=7)")


def test_a_checksum_is_of_pairs_and_their_order():
    one, other = Pair("a", "b"), Pair("c", "d")
    assert checksum([one, other]) == checksum([one, other]) != checksum([other, one])


def test_vocabularies_are_the_same_again():
    for joint in (True, False):
        sides = Sides.of(PAIRS, TranslateConfig(joint=joint))
        again = Sides.from_json(sides.to_json())
        assert again.joint == joint
        assert again.sha256 == sides.sha256
    changed = {**sides.to_json(), "both_sha256": "0"}
    with pytest.raises(DataError, match="do not match their own checksum"):
        Sides.from_json(changed)
    with pytest.raises(DataError, match="no vocabularies"):
        Sides.from_json({"source": 1})


def test_encoded_pairs_are_batched_whole():
    sides = Sides.of(PAIRS, TranslateConfig())
    encoded = Encoded(PAIRS[:50], sides)
    batches = [*encoded.batches(rows=16)]
    assert sum(batch.source.shape[1] for batch in batches) == 50
    whole = sum(len(each) for each in encoded.targets) + 50
    assert sum(int(batch.there.sum()) for batch in batches) == whole
    part = batches[-2].part(3, 2)
    assert part.read.shape == part.there.shape == part.source.shape == (2, 3)
    assert part.lengths.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "around"}, "--attention is one of none, after, inside, got 'around'"),
        ({"attention": "none", "score": "dot"}, "--score is of attention, and there is none"),
        ({"attention": "none", "enters": "fed"}, "--enters is of attention, and there is none"),
        ({"attention": "none", "lexical": True}, "--lexical is of attention, and there is none"),
        ({"attention": "none", "score_width": 3}, "--score-width is of attention, and there is none"),
        ({"enters": "gated"}, "--enters gated is for --attention inside"),
        ({"score": "cosine"}, "--score is one of additive, location, dot"),
        ({"vocabulary": "letters"}, "--vocabulary is one of subwords, words"),
        ({"dropout": 1.0}, "--dropout is a probability from 0 and below 1"),
        ({"scheduled_sampling": -0.1}, "--scheduled-sampling is a probability"),
        ({"sampling_schedule": "sigmoid"}, "--sampling-schedule is for --scheduled-sampling"),
        ({"sampling_schedule": "steps", "scheduled_sampling": 0.1}, "--sampling-schedule is one of linear"),
        ({"hidden": 0}, "--hidden must be a whole number of at least 1"),
        ({"batch_tokens": 0}, "--batch-tokens must be a whole number of at least 1"),
        ({"bridge": "jump"}, "--bridge is one of pass, map"),
        ({"translated": -1}, "--translated cannot be negative"),
        ({"split": -1}, "--split cannot be negative"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        TranslateConfig(**options)
    assert one_line(caught.value).startswith(message)


def test_settings_that_are_not_said_follow_from_others():
    assert TranslateConfig().score == "general"
    assert TranslateConfig(attention="inside").score == "additive"
    assert TranslateConfig(attention="none").score is None
    assert TranslateConfig().lexical
    assert not TranslateConfig(attention="none").lexical
    assert not TranslateConfig(score="dot").lexical
    assert not TranslateConfig(lexical=False).lexical
    assert TranslateConfig(hidden=10).width == 5
    assert TranslateConfig(hidden=10, bidirectional=False).width == 10
    assert math.isclose(task_of().passes, 9000 / 18)
