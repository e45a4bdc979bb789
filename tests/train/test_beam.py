"""Beams: with a place for everything they find the best of all, with fewer what their definition says."""

import pytest
import torch
from writers import SPECIAL, Prefixes, RandomWriter, each

from unrolled.errors import DivergedError, InputError
from unrolled.train.beam import Ranking, beam
from unrolled.train.decodable import Carried, Rules
from unrolled.train.decoding import Decoding, Special, decode, n_best

PENALTIES = [(0.0, 0.0), (0.6, 0.0), (1.0, 0.0), (0.0, 0.4), (0.7, 0.3), (2.0, 1.0)]


def close(found, expected):
    assert [one.tokens for one in found] == [tokens for tokens, *_ in expected]
    for one, (_, score, normalised, finished) in zip(found, expected, strict=True):
        assert one.score == pytest.approx(score, rel=1e-9)
        assert one.normalised == pytest.approx(normalised, rel=1e-9)
        assert one.finished == finished


@pytest.mark.parametrize(("alpha", "beta"), PENALTIES)
def test_a_beam_with_a_place_for_every_sequence_is_exhaustive_search(alpha, beta):
    """V^T places: all of the sequences, in their order, and the best alone with the stop that brings."""
    B, T, V = 3, 4, 6
    model = RandomWriter(V)
    state = model.begin(B)
    mask = state.memory["mask"]
    options = Decoding(beam=V**T, length_penalty=alpha, coverage_penalty=beta, max_length=T)
    everything = n_best(model, state, B, SPECIAL, options, 31, mask=mask)
    alone = decode(model, state, B, SPECIAL, options, mask=mask)
    for b, one in enumerate(each(state, B)):
        prefixes = Prefixes(model, one)
        expected = sorted(
            prefixes.everything(T), key=lambda w: prefixes.normalised(w, alpha, beta, mask[b]), reverse=True
        )
        assert len(expected) == 31
        told = [
            (list(w[:-1]), prefixes.score(w), prefixes.normalised(w, alpha, beta, mask[b]), True)
            for w in expected
        ]
        close(everything[b], told)
        close([alone[b]], told[:1])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_is_what_its_definition_says(size, seed):
    """Many sequences at once, of mixed lengths and sources, as each by itself in plain Python; the exact stop
    changes nothing."""
    B, V = 7, 9
    model = RandomWriter(V, seed=seed, sharp=1.2)
    state = model.begin(B, S=3, seed=seed)
    mask = state.memory["mask"]
    limits = torch.tensor([0, 1, 5, 8, 3, 12, 12])
    alpha, beta = PENALTIES[(seed + size) % len(PENALTIES)]
    for best in {1, size}:
        options = Decoding(beam=size, length_penalty=alpha, coverage_penalty=beta)
        found = n_best(model, state, B, SPECIAL, options, best, max_length=limits, mask=mask)
        for b, one in enumerate(each(state, B)):
            expected = Prefixes(model, one).beam(int(limits[b]), size, best, alpha, beta, mask[b])
            close(found[b], expected)


@pytest.mark.parametrize("min_length", [1, 3])
def test_no_hypothesis_ends_before_its_least_length(min_length):
    B, V = 5, 7
    model = RandomWriter(V, seed=5)
    model.O[:, SPECIAL.end] += 1.0
    state = model.begin(B)
    options = Decoding(beam=3, min_length=min_length, max_length=6)
    found = n_best(model, state, B, SPECIAL, options, 3)
    for b, one in enumerate(each(state, B)):
        close(found[b], Prefixes(model, one).beam(6, 3, 3, 0.6, min_length=min_length))
        assert min(len(written.tokens) for written in found[b]) >= min_length


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_a_beam_of_one_is_greedy(alpha):
    B = 40
    model = RandomWriter(12, seed=3)
    state = model.begin(B)
    limits = torch.arange(B) % 9
    greedy = decode(model, state, B, SPECIAL, max_length=limits)
    one = decode(model, state, B, SPECIAL, Decoding(beam=1, length_penalty=alpha), max_length=limits)
    assert [w.tokens for w in one] == [w.tokens for w in greedy]
    assert [w.finished for w in one] == [w.finished for w in greedy]
    assert {True, False} <= {w.finished for w in one}
    assert [w.score for w in one] == pytest.approx([w.score for w in greedy], rel=1e-12)
    for a, b in zip(one, greedy, strict=True):
        torch.testing.assert_close(a.attention, b.attention)


def test_a_larger_beam_finds_no_worse_on_the_whole():
    B = 60
    model = RandomWriter(20, seed=8)
    state = model.begin(B)
    means = []
    for size in (1, 3, 10, 40):
        found = decode(
            model, state, B, SPECIAL, Decoding(beam=size, length_penalty=0.0, max_length=10, min_length=4)
        )
        means.append(sum(w.score for w in found) / B)
    assert means == sorted(means)
    assert means[-1] > means[0]


class Listed:
    """Logits by the number of the step; no state."""

    def __init__(self, *rows):
        self.rows, self.V, self.calls = rows, len(rows[0]), []

    def __call__(self, words, state):
        self.calls.append(len(words))
        (steps,) = state.states
        logits = torch.tensor(self.rows)[steps[:, 0].clamp(max=len(self.rows) - 1)]
        return logits, state.after((steps + 1)[None]), None

    @staticmethod
    def begin(B):
        return Carried(torch.zeros(1, B, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("alpha", "longest", "calls"),
    [(0.0, 200, 1), (1.0, 5, 1), (1.0, 125, 1), (1.0, 126, 2), (2.0, 22, 1), (2.0, 23, 2)],
)
def test_a_beam_stops_as_soon_as_nothing_can_become_better(alpha, longest, calls):
    """END at once has log 0.9, the next best word log 0.1. That could win where ((5 + length) / 6)^α, with
    END, exceeds log 0.1 / log 0.9 = 21.85, so from 126 words on for α = 1, and from 23 on for α = 2."""
    p = torch.tensor([0, 0, 0.9, 0.1, 0]).log().tolist()
    model = Listed(p, torch.tensor([0, 0, 1.0, 0, 0]).log().tolist())
    found = n_best(
        model, model.begin(2), 2, Special(0, 1, 2),
        Decoding(beam=3, length_penalty=alpha, max_length=longest), 1,
    )  # fmt: skip
    assert [w.tokens for (w,) in found] == [[], []]
    assert found[0][0].score == pytest.approx(-0.10536, abs=1e-5)
    assert len(model.calls) == calls


def test_what_is_done_takes_no_more_steps_of_the_model():
    B, size = 16, 4
    model = RandomWriter(30, seed=2)
    state = model.begin(B)
    limits = torch.tensor([2] * 8 + [5] * 4 + [9] * 4)
    model.O[:, SPECIAL.end] = 0
    model.rows.clear()
    decode(model, state, B, SPECIAL, Decoding(beam=size, min_length=2), max_length=limits)
    assert model.rows[0] == B
    assert model.rows[1] == B * size
    assert max(model.rows[3:6], default=0) <= 8 * size
    assert max(model.rows[6:], default=0) <= 4 * size
    assert len(model.rows) <= 10


def test_a_memory_is_moved_only_where_sequences_leave():
    """`within` says that a state's rows stay with their sequences, and is true."""
    B, size, told = 6, 3, []

    class Watched(Carried):
        def select(self, rows, within):
            N = len(self.memory["of"])
            if within:
                assert len(rows) == N
                assert (self.memory["of"][rows] == self.memory["of"]).all()
            told.append(within)
            found = super().select(rows, within)
            return Watched(found.states, found.memory)

        def after(self, states):
            return Watched(states, self.memory)

    model = RandomWriter(11, seed=4)
    begin = model.begin(B)
    state = Watched(begin.states, {**begin.memory, "of": torch.arange(B)})
    watched = decode(model, state, B, SPECIAL, Decoding(beam=size, max_length=15, min_length=5))
    plain = decode(model, begin, B, SPECIAL, Decoding(beam=size, max_length=15, min_length=5))
    assert [w.tokens for w in watched] == [w.tokens for w in plain]
    assert told[0] is False
    assert told[1:4] == [True] * 3


def test_weights_of_each_word_are_where_the_model_looked_for_it():
    B = 5
    model = RandomWriter(9, seed=6)
    state = model.begin(B)
    found = n_best(model, state, B, SPECIAL, Decoding(beam=4, max_length=7, coverage_penalty=0.2), 4)
    for b, one in enumerate(each(state, B)):
        prefixes = Prefixes(model, one)
        for written in found[b]:
            expected = prefixes.looks([*written.tokens, SPECIAL.end])[: len(written.tokens)]
            torch.testing.assert_close(written.attention, expected, rtol=1e-9, atol=1e-12)


def test_a_vocabulary_may_be_smaller_than_the_beam():
    model = RandomWriter(5, seed=1)  # one word and END
    state = model.begin(3)
    found = n_best(model, state, 3, SPECIAL, Decoding(beam=50, max_length=6, length_penalty=0.0), 50)
    for b, one in enumerate(each(state, 3)):
        close(found[b], Prefixes(model, one).beam(6, 50, 50))
        assert [sorted(map(len, (w.tokens for w in found[b])))] == [[0, 1, 2, 3, 4, 5, 6]]


def test_a_hypothesis_that_cannot_go_on_leaves_its_place_to_others():
    """After the likeliest word nothing may follow; after the other END."""

    class Trap(RandomWriter):
        def __call__(self, words, state):
            logits, after, weights = super().__call__(words, state)
            logits = torch.full_like(logits, -torch.inf)
            logits[:, 4] = torch.where(words == SPECIAL.start, 2.0, -torch.inf)
            logits[:, 5] = torch.where(words == SPECIAL.start, 0.0, -torch.inf)
            logits[:, SPECIAL.end] = torch.where(words == 5, 0.0, -torch.inf)
            logits[:, SPECIAL.pad] = torch.where(words == 4, 0.0, -torch.inf)  # which is never written
            return logits, after, weights

    model = Trap(6)
    state = model.begin(2)
    options = Decoding(beam=2, max_length=4)
    assert [w.tokens for w in decode(model, state, 2, SPECIAL, options)] == [[5], [5]]
    with pytest.raises(InputError, match=r"nothing can follow at word 2: .* probability 0"):
        decode(model, state, 2, SPECIAL, Decoding(beam=1, max_length=4))


def test_an_empty_batch_has_no_best():
    model = RandomWriter(6)
    state = model.begin(1).select(torch.zeros(0, dtype=torch.int64), False)
    model.rows.clear()
    assert n_best(model, state, 0, SPECIAL, Decoding(beam=3), 2) == []
    assert not model.rows


@pytest.mark.parametrize("when", [0, 3])
def test_a_beam_says_where_logits_are_not_finite(when):
    bad = [0.0, 0.0, -9.0, 1.0, float("nan")]
    model = Listed(*[[0.0, 0.0, -9.0, 1.0, 0.0]] * when, bad)
    with pytest.raises(DivergedError, match=f"not finite for word {when + 1}"):
        decode(model, model.begin(2), 2, Special(0, 1, 2), Decoding(beam=2, length_penalty=0.0))


def test_a_coverage_penalty_needs_a_model_that_looks():
    model = RandomWriter(6, looks=False)
    with pytest.raises(InputError, match="coverage penalty is for models that tell where they look"):
        decode(model, model.begin(2), 2, SPECIAL, Decoding(beam=2, coverage_penalty=0.1))
    model = RandomWriter(6)
    with pytest.raises(InputError, match="mask has 9 places, and the model looks at 4"):
        decode(
            model,
            model.begin(2),
            2,
            SPECIAL,
            Decoding(beam=2, coverage_penalty=0.1),
            mask=torch.ones(2, 9) > 0,
        )


def test_a_place_that_is_never_looked_at_costs_much_and_not_everything():
    ranking = Ranking(coverage=1.0)
    covered, of = torch.tensor([[0.0, 1.0], [0.5, 3.0]]), torch.arange(2)
    found = ranking(torch.tensor([-1.0, -1.0], dtype=torch.float64), 4, covered, of)
    assert found.tolist() == pytest.approx([-24.02585, -1.693147])


def test_bad_sizes_of_a_beam_are_refused():
    model, rules = RandomWriter(6), Rules(2, SPECIAL, 5)
    with pytest.raises(InputError, match="the 3 best are wanted of a beam of 2"):
        beam(model, model.begin(2), rules, Ranking(), 2, 3)
    for size, best in ((0, 1), (2, 0), (2.0, 1)):
        with pytest.raises(InputError, match="whole number of at least 1"):
            beam(model, model.begin(2), rules, Ranking(), size, best)
    for wrong in ({"length": -1.0}, {"coverage": float("nan")}, {"length": float("inf")}):
        with pytest.raises(InputError, match="penalty must be a finite number from 0"):
            Ranking(**wrong)
    with pytest.raises(InputError, match="those of a beam"):
        n_best(model, model.begin(2), 2, SPECIAL, Decoding(), 1)
