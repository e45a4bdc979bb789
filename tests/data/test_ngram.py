import argparse
import inspect
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from unrolled.data import KneserNey, Vocabulary, baselines, split, unigram_bits
from unrolled.errors import DataError, InputError


def plain_kneser_ney(train, order, V):
    """The equations in dictionaries: p(w, context) for contexts of up to order - 1 ids."""
    counts = {order: Counter(tuple(train[i : i + order]) for i in range(len(train) - order + 1))}
    for k in range(1, order):
        longer = {tuple(train[i : i + k + 1]) for i in range(len(train) - k)}
        counts[k] = Counter(gram[1:] for gram in longer)
    totals, kinds, discounts = defaultdict(int), defaultdict(int), {}
    for k in counts:
        for gram, count in counts[k].items():
            totals[k, gram[:-1]] += count
            kinds[k, gram[:-1]] += 1
        n1, n2 = (sum(count == c for count in counts[k].values()) for c in (1, 2))
        discounts[k] = n1 / (n1 + 2 * n2) if n1 and n2 else 0.5

    def p(w, context):
        k = len(context) + 1
        lower = p(w, context[1:]) if context else 1 / V
        if not totals[k, context]:
            return lower
        kept = max(counts[k][(*context, w)] - discounts[k], 0)
        return (kept + discounts[k] * kinds[k, context] * lower) / totals[k, context]

    return p


@pytest.mark.parametrize("order", [1, 2, 3, 5, 9])
@pytest.mark.parametrize(("N", "V"), [(9, 2), (40, 3), (300, 4), (300, 26), (300, 1_114_112)])
def test_probabilities_equal_the_plain_equations(order, N, V):
    generator = np.random.default_rng(order * N + V)
    alphabet = generator.choice(V, size=min(V, 26), replace=False)

    # Squares make some characters frequent and some rare; a test text has characters never trained on.
    def draw(n, size):
        return alphabet[(generator.random(n) ** 2 * size).astype(int)]

    train, test = draw(N, max(1, len(alphabet) - 1)), draw(200, len(alphabet))
    p = plain_kneser_ney(train.tolist(), order, V)
    expected = [
        math.log2(p(int(test[i]), tuple(test[max(0, i - order + 1) : i].tolist())))
        for i in range(1, len(test))
    ]
    found = KneserNey(train, order, V).log2_probabilities(test)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("text", ["abracadabra", "abababab", "aabbccdd", "aaaaa", "abcde"])
def test_probabilities_sum_to_one_after_any_context(order, text):
    """Seen and unseen contexts, one only seen at the very end, and characters never seen."""
    V = 7
    train = torch.tensor([ord(c) - ord("a") for c in text])
    train = train % (V - 1)
    model = KneserNey(train, order, V)
    for context in ([0], [V - 1], [0, 1], [V - 1, 0], [0, V - 1], train[-4:].tolist(), train[:3].tolist()):
        logs = [model.log2_probabilities(torch.tensor([*context, w]))[-1] for w in range(V)]
        assert np.isfinite(logs).all()
        assert abs(np.exp2(logs).sum() - 1) < 1e-12


def test_a_longer_memory_helps_on_text():
    text = inspect.getsource(argparse)
    vocabulary = Vocabulary.of(text)
    train, tail = (vocabulary.encode(part) for part in split(text, 0.1))
    bits = baselines(train, tail, len(vocabulary))
    assert list(bits) == ["uniform", "unigram", "3-gram", "5-gram"]
    assert bits["uniform"] == math.log2(len(vocabulary))
    assert bits["5-gram"] < bits["3-gram"] < bits["unigram"] < bits["uniform"]
    bigram = KneserNey(train, 2, len(vocabulary)).bits_per_character(tail)
    assert bits["3-gram"] < bigram < bits["unigram"]
    assert bits["5-gram"] == KneserNey(train, 5, len(vocabulary)).bits_per_character(tail)


def test_a_repeated_text_is_nearly_free_and_a_random_one_costs_the_uniform_price():
    repeated = torch.arange(8).repeat(500)
    assert KneserNey(repeated, 3, 8).bits_per_character(repeated) < 0.05
    random = torch.randint(8, (20_000,), generator=torch.Generator().manual_seed(1))
    assert KneserNey(random[:10_000], 3, 8).bits_per_character(random[10_000:]) == pytest.approx(3, abs=0.05)


def test_unigram_bits_are_those_of_add_one_frequencies_of_all_but_the_first():
    bits = unigram_bits(torch.tensor([0, 0, 0, 1]), torch.tensor([1, 0, 1, 2]), 3)
    assert bits == pytest.approx(-(math.log2(4 / 7) + math.log2(2 / 7) + math.log2(1 / 7)) / 3, rel=1e-12)


def test_tensors_and_arrays_give_the_same():
    ids = torch.tensor([0, 1, 0, 0, 1, 1, 0])
    from_array = KneserNey(ids.numpy().astype(np.int32), 2, 2).log2_probabilities(ids.to(torch.uint8))
    np.testing.assert_array_equal(from_array, KneserNey(ids, 2, 2).log2_probabilities(ids))


def test_a_text_that_does_not_fit_is_refused():
    ids = torch.tensor([0, 1, 2])
    model = KneserNey(ids, 3, 3)
    for bad in (torch.tensor([0, 3]), torch.tensor([-1, 0])):
        with pytest.raises(InputError, match="from 0 to 2"):
            model.log2_probabilities(bad)
    for bad in (torch.tensor([[0, 1]]), torch.tensor([0.0, 1.0])):
        with pytest.raises(InputError, match="whole numbers"):
            KneserNey(bad, 1, 3)
    for order, V in ((0, 3), (1, 0)):
        with pytest.raises(InputError, match="at least 1"):
            KneserNey(ids, order, V)
    with pytest.raises(DataError, match="has 3 characters and this needs at least 4"):
        KneserNey(ids, 4, 3)
    with pytest.raises(DataError, match="at least 2"):
        model.bits_per_character(ids[:1])
