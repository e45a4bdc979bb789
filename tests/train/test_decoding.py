"""One word each time, the likeliest or drawn: what is written is what the model says, batch or not."""

import dataclasses
import math
from collections import Counter

import pytest
import torch
from torch import nn
from writers import SPECIAL, Prefixes, RandomWriter, each

from unrolled import LSTM, Recurrent
from unrolled.errors import DivergedError, InputError
from unrolled.nn.decoder import Decoder
from unrolled.train.decodable import Rules
from unrolled.train.decoding import Carried, Decoding, Special, decode


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_greedy_takes_the_likeliest_word_each_time():
    """By itself, in a batch of mixed lengths, with its score and where the model looked."""
    B = 30
    model = RandomWriter(12)
    state = model.begin(B)
    limits = torch.arange(B) % 8
    found = decode(model, state, B, SPECIAL, max_length=limits)
    for written, limit, one in zip(found, limits.tolist(), each(state, B), strict=True):
        prefixes, words = Prefixes(model, one), []
        while True:
            logs = prefixes(tuple(words))[0]
            word = max(prefixes.allowed(0), key=logs.__getitem__)
            if word == SPECIAL.end or len(words) == limit:
                break
            words.append(word)
        assert written.tokens == words
        assert written.finished == (word == SPECIAL.end)
        ended = [SPECIAL.end] if written.finished else []
        assert written.score == written.normalised == pytest.approx(prefixes.score([*words, *ended]))
        assert written.attention.shape == (len(words), 4)
        if words:
            torch.testing.assert_close(written.attention, prefixes.looks(words), rtol=1e-9, atol=1e-12)
    assert {True, False} == {written.finished for written in found}


def test_temperature_zero_is_greedy():
    B = 20
    model = RandomWriter(12)
    state = model.begin(B)
    greedy = decode(model, state, B, SPECIAL, Decoding(max_length=9))
    for careful in ({"temperature": 0}, {"temperature": 1e-9}, {"top_k": 1}, {"top_p": 1e-9}):
        options = Decoding(max_length=9, **careful)
        found = decode(model, state, B, SPECIAL, options, generator=seeded())
        assert [w.tokens for w in found] == [w.tokens for w in greedy]
        assert [w.score for w in found] == pytest.approx([w.score for w in greedy])


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.6}, {"top_k": 3, "top_p": 0.9}])
def test_sequences_come_as_often_as_the_model_says(options):
    """χ² over all sequences of up to 2 words of 5, drawn 20,000 times, with words that leave the batch."""
    B, T, V = 20_000, 2, 8
    model = RandomWriter(V, seed=3, sharp=0.8)
    one = model.begin(1)
    state = one.select(torch.zeros(B, dtype=torch.int64), False)
    settings = Decoding(max_length=T, unknown=True, **options)
    found = decode(model, state, B, SPECIAL, settings, generator=seeded(4))
    prefixes = Prefixes(model, one, banned=(SPECIAL.pad, SPECIAL.start))

    def shares(prefix):
        logs = torch.tensor(prefixes(prefix)[0])
        logs[[SPECIAL.pad, SPECIAL.start]] = -torch.inf
        p = (logs / settings.temperature).softmax(0)
        order = p.argsort(descending=True)[: settings.top_k]
        before = (p[order] / p[order].sum()).cumsum(0) - p[order] / p[order].sum()
        kept = order[before < (settings.top_p or 1)]
        return {int(word): float(p[word] / p[kept].sum()) for word in kept}

    expected = {}
    for first, p in shares(()).items():
        if first == SPECIAL.end:
            expected[(), True] = p
            continue
        for second, q in shares((first,)).items():
            if second == SPECIAL.end:
                expected[(first,), True] = p * q
                continue
            last = shares((first, second)).get(SPECIAL.end, 0.0)
            expected[(first, second), True] = p * q * last
            expected[(first, second), False] = p * q * (1 - last)
    assert sum(expected.values()) == pytest.approx(1)
    counts = Counter((tuple(w.tokens), w.finished) for w in found)
    assert sum(counts[key] for key in expected) == B
    often = {key: B * p for key, p in expected.items() if B * p >= 5}
    rest = B - sum(often.values())
    squares = sum((counts[key] - n) ** 2 / n for key, n in often.items())
    seldom = B - sum(counts[key] for key in often)
    squares += (seldom - rest) ** 2 / rest if rest >= 5 else 0
    freedom = len(often) - (rest < 5)
    assert abs(squares - freedom) < 4 * math.sqrt(2 * freedom)
    for written in found[:50]:
        ended = [SPECIAL.end] if written.finished else []
        assert written.score == pytest.approx(prefixes.score([*written.tokens, *ended]))


def test_drawn_sequences_are_the_same_with_the_same_seed():
    model = RandomWriter(12)
    state = model.begin(9)
    told = [
        [w.tokens for w in decode(model, state, 9, SPECIAL, Decoding(temperature=1.0), generator=seeded(s))]
        for s in (1, 1, 2)
    ]
    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize("options", [{}, {"beam": 3}, {"temperature": 2.0}], ids=str)
def test_lengths_are_held(options):
    B = 40
    model = RandomWriter(9, seed=2, sharp=0.5)
    state = model.begin(B)
    limits = torch.arange(B) % 7 + 2
    for given in (limits, limits.tolist(), limits.to(torch.int32)):
        found = decode(
            model, state, B, SPECIAL, Decoding(min_length=2, **options), max_length=given, generator=seeded()
        )
        assert all(2 <= len(w.tokens) <= n for w, n in zip(found, limits.tolist(), strict=True))
        assert any(w.finished for w in found)
        assert all(len(w.tokens) == n for w, n in zip(found, limits, strict=True) if not w.finished)
    found = decode(model, state, B, SPECIAL, Decoding(max_length=0, **options), generator=seeded())
    assert all(w.tokens == [] and w.attention.shape == (0, 4) for w in found)
    assert any(w.finished for w in found)


@pytest.mark.parametrize("options", [{}, {"beam": 3}, {"temperature": 2.0}], ids=str)
def test_special_tokens_are_never_written_and_the_unknown_word_only_if_asked(options):
    B = 30
    model = RandomWriter(9, seed=2, sharp=0.5)
    for number, more in ((SPECIAL.pad, 9.0), (SPECIAL.start, 9.0), (SPECIAL.unknown, 2.0)):
        model.O[:, number] += more * model.O.new_ones(model.H) / model.H
    state = model.begin(B)
    for unknown in (False, True):
        settings = Decoding(unknown=unknown, max_length=20, **options)
        found = decode(model, state, B, SPECIAL, settings, generator=seeded())
        said = {word for w in found for word in w.tokens}
        assert not said & {SPECIAL.pad, SPECIAL.start, SPECIAL.end}
        assert (SPECIAL.unknown in said) == unknown
    both = Special(pad=0, start=2, end=2, unknown=3)  # START may be END, as in a text of sentences
    assert any(
        w.finished
        for w in decode(model, state, B, both, Decoding(max_length=20, **options), generator=seeded())
    )


@pytest.mark.parametrize("options", [{}, {"beam": 4}], ids=str)
def test_a_batch_is_its_sequences_one_by_one(options):
    B = 25
    model = RandomWriter(15, seed=7)
    state = model.begin(B)
    limits = torch.arange(B) % 11
    settings = Decoding(**options)
    found = decode(model, state, B, SPECIAL, settings, max_length=limits)
    for together, limit, one in zip(found, limits.tolist(), each(state, B), strict=True):
        (alone,) = decode(model, one, 1, SPECIAL, settings, max_length=limit)
        assert alone.tokens == together.tokens
        assert alone.finished == together.finished
        assert alone.score == pytest.approx(together.score, rel=1e-12)
        torch.testing.assert_close(alone.attention, together.attention)


def test_what_is_done_takes_no_more_steps_of_the_model():
    B = 64
    model = RandomWriter(12)
    model.O[:, SPECIAL.end] -= 100 * model.O.new_ones(model.H)
    state = model.begin(B)
    limits = torch.tensor([1] * 32 + [4] * 16 + [8] * 16)
    model.rows.clear()
    decode(model, state, B, SPECIAL, max_length=limits, options=Decoding(min_length=1))
    assert len(model.rows) <= 9
    assert sum(model.rows) < 64 * 2 + 32 * 3 + 16 * 4 + 1


@pytest.mark.parametrize("name", ["LSTM", "lstm", "gru"])
@pytest.mark.parametrize("options", [{}, {"beam": 4, "length_penalty": 0.0}], ids=str)
def test_recurrent_layers_write_what_they_say_of_the_whole_sequence(name, options):
    """Two layers, whose states are a tuple or a mapping; the score is that of one run over all words."""
    V, H, B = 11, 8, 6
    layer = LSTM(V, H, num_layers=2) if name == "LSTM" else Recurrent(name, V, H, num_layers=2)
    layer, head = layer.double(), nn.Linear(H, V).double()
    for parameter in layer.parameters():
        parameter.data.mul_(3)
    head.weight.data.mul_(6)

    def model(words, state):
        outputs, after = layer(words[None], state.states)
        return head(outputs[0]), state.after(after), None

    source = torch.randint(V, (5, B))
    _, begin = layer(source)
    found = decode(model, Carried(begin), B, SPECIAL, Decoding(max_length=6, **options))
    for b, written in enumerate(found):
        ended = [SPECIAL.end] if written.finished else []
        said = torch.tensor([SPECIAL.start, *written.tokens, *ended])
        _, state = layer(source[:, b : b + 1])
        outputs, _ = layer(said[:-1, None], state)
        logs = head(outputs[:, 0]).log_softmax(-1)
        assert written.score == pytest.approx(logs.gather(1, said[1:, None]).sum().item())
        assert written.attention is None
        assert not any(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_half_precision_are_those_of_single(dtype):
    logits = torch.randn(1, 8, generator=seeded()).to(dtype)

    def model(words, state):
        return logits.expand(len(words), 8), state, None

    found = decode(model, Carried(()), 2, SPECIAL, Decoding(max_length=3, min_length=3))
    logs = logits[0].float().log_softmax(0)
    likeliest = logs[4:].max().item()
    end = logs[2].item() if logs[2] >= likeliest else 0.0
    assert found[0].score == pytest.approx(3 * likeliest + end, rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}], ids=str)
def test_logits_that_are_not_finite_are_told(options):
    for bad in (math.nan, math.inf):

        def model(words, state, bad=bad):
            logits = torch.zeros(len(words), 6)
            logits[-1, 4] = bad
            return logits, state, None

        with pytest.raises(DivergedError, match="not finite for word 1"):
            decode(model, Carried(()), 3, SPECIAL, Decoding(**options), generator=seeded())

    def nothing(words, state):
        return torch.tensor([[0.0, 0, 0, 0, -math.inf]]).expand(len(words), 5), state, None

    with pytest.raises(InputError, match=r"nothing can follow at word 1: .* probability 0"):
        decode(nothing, Carried(()), 3, SPECIAL, Decoding(min_length=1, **options), generator=seeded())


def test_rows_that_are_done_may_hold_what_they_like():
    """Until they leave the batch nothing is read of them."""

    def model(words, state):
        logits = torch.zeros(len(words), 6)
        logits[0, 2] = 9.0
        logits[1:, 5] = 9.0
        logits[(words == 2)] = math.nan
        return logits, state, None

    for options in (Decoding(max_length=3), Decoding(temperature=0.01, max_length=3)):
        found = decode(model, Carried(()), 8, SPECIAL, options, generator=seeded())
        assert [w.tokens for w in found] == [[], *[[5, 5, 5]] * 7]


@pytest.mark.parametrize("options", [{}, {"beam": 3}, {"temperature": 1.0}], ids=str)
def test_an_empty_batch_is_nothing_to_do(options):
    for max_length in (None, 5, [], torch.zeros(0, dtype=torch.int64)):
        found = decode(
            lambda words, state: pytest.fail("no step"), Carried(()), 0, SPECIAL, Decoding(**options),
            max_length=max_length, generator=seeded(),
        )  # fmt: skip
        assert found == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beam": 0}, "--beam is a number from 1 to a million, got 0"),
        ({"beam": 2.5}, "--beam is a number from 1 to a million, got 2.5"),
        ({"max_length": -1}, "--max-length is a number from 0 to a million, got -1"),
        ({"min_length": -1}, "--min-length is a number from 0 to a million, got -1"),
        ({"min_length": 9, "max_length": 8}, "--min-length is 9, above --max-length, which is 8"),
        ({"length_penalty": 0.5}, "--length-penalty is for a beam: give --beam too"),
        ({"coverage_penalty": 0.5}, "--coverage-penalty is for a beam: give --beam too"),
        ({"beam": 2, "length_penalty": -1.0}, "--length-penalty must be a finite number from 0, got -1"),
        ({"beam": 2, "coverage_penalty": math.nan}, "--coverage-penalty must be a finite number from 0"),
        ({"beam": 2, "temperature": 1.0}, "drawn or sought by a beam"),
        ({"beam": 2, "top_k": 1}, "drawn or sought by a beam"),
        ({"beam": 2, "top_p": 0.5}, "drawn or sought by a beam"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"temperature": math.inf}, "temperature must be a finite number"),
        ({"top_k": 0}, "top-k must be at least 1"),
        ({"top_p": 1.1}, "top-p is a probability"),
    ],
)
def test_options_out_of_range_are_told_in_one_line(wrong, message):
    with pytest.raises(InputError) as caught:
        Decoding(**wrong)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        Decoding(),
        Decoding(beam=3),
        Decoding(beam=2, length_penalty=0.0, coverage_penalty=0.1),
        Decoding(top_k=3),
    ],
)
def test_options_are_kept_and_read_again(options):
    assert Decoding(**dataclasses.asdict(options)) == options


def test_defaults_depend_on_how_words_are_chosen():
    assert (Decoding().length_penalty, Decoding(beam=4).length_penalty) == (0, 0.6)
    assert Decoding().temperature is None
    assert Decoding(top_k=3).temperature == Decoding(top_p=0.5).temperature == 1
    assert Decoding(top_k=3, temperature=0.5).temperature == 0.5


def test_arguments_that_do_not_fit_are_refused():
    model = RandomWriter(6)
    state = model.begin(2)
    for given, message in (
        ({"max_length": [1, 2, 3]}, r"one number or 2 of them, one a sequence, got \(3,\)"),
        ({"max_length": 2.5}, "whole number or a tensor of them"),
        ({"max_length": True}, "whole number or a tensor of them"),
        ({"max_length": torch.tensor([3, -1])}, "max_length is -1, which is below min_length, 0"),
        (
            {"max_length": 1, "options": Decoding(min_length=2)},
            "max_length is 1, which is below min_length, 2",
        ),
        ({"options": Decoding(temperature=1.0)}, "give generator="),
    ):
        with pytest.raises(InputError, match=message):
            decode(model, state, 2, SPECIAL, **given)
    for batch in (-1, 2.0, True):
        with pytest.raises(InputError, match="batch is a number of sequences"):
            decode(model, state, batch, SPECIAL)
    with pytest.raises(InputError, match="cannot be negative"):
        Rules(2, SPECIAL, 5, min_length=-1)
    with pytest.raises(InputError, match="cannot be negative"):
        Special(pad=-1, start=1, end=2)
    with pytest.raises(InputError, match=r"knows tokens 0 to 5, but .* has 6"):
        decode(model, state, 2, Special(pad=0, start=1, end=6))
    for shape in ((3, 6), (2, 1, 6), (2,)):
        with pytest.raises(InputError, match=r"gives logits \(N, V\) for words \(N,\): N is 2"):
            decode(lambda words, state, shape=shape: (torch.zeros(shape), state, None), state, 2, SPECIAL)


@pytest.mark.parametrize(
    "way", [{}, {"attention": "after"}, {"attention": "inside", "enters": "fed"}], ids=str
)
@pytest.mark.parametrize("options", [{}, {"beam": 3, "coverage_penalty": 0.2}], ids=str)
def test_decoders_write_what_their_likelihood_says(way, options):
    """With masked memories, shared by rows; the score is the decoder's own of all words at once."""
    B, V, S, M = 5, 11, 4, 6
    memory = {"memory": M} if way else {}
    if not way:
        options = {key: value for key, value in options.items() if key != "coverage_penalty"}
    decoder = Decoder("lstm", V, 5, 7, 2, **way, **memory).double()
    for parameter in decoder.parameters():
        parameter.data.mul_(3)
    mask = torch.arange(S) < torch.tensor([1, 4, 2, 3, 4])[:, None]
    states = {name: torch.randn(2, B, 7, dtype=torch.float64) for name in decoder.state_names}
    values = torch.randn(B, S, M, dtype=torch.float64)
    begin = decoder.begin(B, states, *((values, mask) if way else ()))
    limits = torch.tensor([3, 9, 0, 5, 9])
    found = decode(
        decoder.step, begin, B, SPECIAL, Decoding(**options), max_length=limits, mask=mask if way else None
    )
    T = max(len(written.tokens) for written in found) + 1
    words = torch.full((T + 1, B), SPECIAL.pad)
    there = torch.zeros(T, B, dtype=torch.bool)
    for b, written in enumerate(found):
        said = [SPECIAL.start, *written.tokens, *[SPECIAL.end] * written.finished]
        words[: len(said), b] = torch.tensor(said)
        there[: len(said) - 1, b] = True
    with torch.no_grad():
        told = decoder(words[:-1], begin)
        expected = decoder.log_likelihood(told.features, words[1:], there)
    assert [written.score for written in found] == pytest.approx(expected.tolist())
    for b, written in enumerate(found):
        if told.weights is None:
            assert written.attention is None
        else:
            torch.testing.assert_close(written.attention, told.weights[: len(written.tokens), b])
