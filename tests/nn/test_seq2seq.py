"""An encoder, a bridge and a decoder: padding changes nothing, and decoding is what training saw."""

import itertools

import pytest
import torch

from cases import one_line
from unrolled.errors import InputError
from unrolled.nn.seq2seq import Bridge, Seq2Seq
from unrolled.train.decoding import Decoding, Special, decode

V, W, E, H, S, T, B = 13, 11, 6, 8, 6, 5, 4
LENGTHS = torch.tensor([6, 3, 1, 5])

WAYS = {
    "without": {},
    "without, both ways": {"bidirectional": True},
    "after": {"attention": "after", "score": "general", "bidirectional": True, "encoder_hidden": 5},
    "inside": {"attention": "inside", "bidirectional": True},
    "lexical": {"attention": "after", "score": "general", "lexical": True},
    "fed": {"attention": "inside", "enters": "fed", "score": "dot"},
}


def made(way, layers=1, cell="lstm", **options):
    torch.manual_seed(0)
    model = Seq2Seq(cell, V, W, E, H, layers, **(WAYS[way] | options)).double()
    source, target = torch.randint(4, V, (S, B)), torch.randint(4, W, (T, B))
    return model, source, target


@pytest.mark.parametrize(("way", "layers"), [*itertools.product(WAYS, (1, 2))])
def test_padding_changes_nothing(way, layers):
    """Features, weights and gradients are those of each sentence alone, whatever stands behind its end."""
    model, source, target = made(way, layers)
    found = model(source, target, LENGTHS)
    found.features.square().sum().backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for b, length in enumerate(LENGTHS.tolist()):
        alone = model(source[:length, b : b + 1], target[:, b : b + 1])
        torch.testing.assert_close(alone.features[:, 0], found.features[:, b])
        if alone.weights is not None:
            torch.testing.assert_close(alone.weights[:, 0], found.weights[:, b, :length])
            assert not found.weights[:, b, length:].any()
        alone.features.square().sum().backward()
    for name, gradient in together.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient)
    other = torch.where(torch.arange(S)[:, None] < LENGTHS, source, 0)
    torch.testing.assert_close(model(other, target, LENGTHS).features, found.features)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_is_likely_as_the_decoder_says(way):
    """The score of a decoded sentence is its log-likelihood under teacher forcing, with its weights."""
    model, source, _ = made(way, layers=2)
    for options in (Decoding(), Decoding(beam=3)):
        state = model.encode(source, LENGTHS)
        found = decode(model.step, state, B, Special(0, 1, 2, 3), options, max_length=4)
        for b, each in enumerate(found):
            words = torch.tensor([1, *each.tokens])[:, None]
            read = model(source[: LENGTHS[b], b : b + 1], words)
            logs = model.decoder.logits(read.features)[:, 0].log_softmax(-1)
            said = torch.tensor([*each.tokens, 2][: len(words) - 1 + each.finished])
            score = logs[: len(said)].gather(1, said[:, None]).sum()
            assert score.item() == pytest.approx(each.score)
            if each.attention is not None:
                kept = each.attention[:, : LENGTHS[b]]
                torch.testing.assert_close(kept, read.weights[: len(each.tokens), 0])


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn", "mgu"])
def test_the_bridge_hands_every_layer_its_states_by_name(cell):
    model, source, _ = made("without, both ways", 2, cell)
    _, states = model.encoder(model.embed(source), lengths=LENGTHS)
    first = model.encode(source, LENGTHS).states
    assert first.keys() == states.keys()
    for name, value in states.items():
        for layer in range(2):
            torch.testing.assert_close(first[name][layer], torch.cat([*value[2 * layer : 2 * layer + 2]], 1))


def test_a_mapping_bridge_has_its_own_map_for_each_state_and_layer():
    model, source, _ = made("after", 2)
    assert model.bridge.kind == "map"
    assert {name for name, _ in model.bridge.maps.named_children()} == {"h0", "h1", "c0", "c1"}
    _, states = model.encoder(model.embed(source), lengths=LENGTHS)
    first = model.encode(source, LENGTHS).states
    own = model.bridge.maps["c1"]
    expected = torch.tanh(torch.cat([states["c"][2], states["c"][3]], 1) @ own.weight.t() + own.bias)
    torch.testing.assert_close(first["c"][1], expected)


def test_sentences_of_no_words_are_read():
    """What was written of them does not depend on what stands in the padding."""
    for way in WAYS:
        model, source, target = made(way)
        lengths = torch.tensor([0, 3, 0, 6])
        found = model(source, target, lengths)
        assert found.features.isfinite().all()
        assert found.weights is None or not found.weights[:, lengths == 0].any()
        other = model(torch.where(lengths == 0, 5, source), target, lengths)
        torch.testing.assert_close(other.features, found.features)


def test_shared_vectors_are_those_of_both_sides():
    model = Seq2Seq("gru", W, W, E, H, shared=True, tied=True)
    assert model.embed.weight is model.decoder.embed.weight is model.decoder.head.weight
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len({*names})
    assert Seq2Seq("gru", W, W, E, H).embed is not Seq2Seq("gru", W, W, E, H).decoder.embed


def test_dropout_draws_in_training_only():
    model, source, target = made("after", layers=2, dropout=0.5)
    one, other = (model(source, target, LENGTHS).features for _ in range(2))
    assert not torch.equal(one, other)
    model.eval()
    one, other = (model(source, target, LENGTHS).features for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared": True}, "shared vectors are of one vocabulary, but there are 13 words"),
        ({"bridge": "jump"}, "a bridge is pass or map, not 'jump'"),
        ({"bridge": "pass", "encoder_hidden": 5}, "final states of 5 cannot be passed to a decoder of 8"),
        ({"attention": "after", "score": "dot", "encoder_hidden": 5}, "score 'dot' multiplies queries of 8"),
        ({"lexical": True}, "lexical=True is of attention"),
        ({"source_words": 0}, "source_words must be a whole number of at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    sizes = {"source_words": V, "target_words": W, "embedding": E, "hidden": H}
    with pytest.raises(InputError) as caught:
        Seq2Seq("lstm", **(sizes | options))
    assert one_line(caught.value).startswith(message)


def test_a_bridge_says_what_it_does():
    assert repr(Bridge(("h",), 1, 8, 8, "pass")) == "Bridge(\n  pass\n  (maps): ModuleDict()\n)"
