"""Decoders, with attention after the recurrence, inside it, or without."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from cases import one_line
from unrolled.errors import InputError
from unrolled.nn.decoder import Decoder

B, S, M, V, E, H, T = 3, 5, 10, 11, 6, 8, 7

WAYS = {
    "without": {},
    "after": {"attention": "after", "memory": M, "score": "general"},
    "after, additive": {"attention": "after", "memory": M},
    **{f"inside, {enters}": {"attention": "inside", "memory": M, "enters": enters}
       for enters in ("plain", "gated", "fed")},
    "inside, products": {"attention": "inside", "memory": M, "score": "general", "enters": "fed"},
    "location-aware": {"attention": "inside", "memory": M, "score": "location"},
    "location-aware, fed": {"attention": "inside", "memory": M, "score": "location", "enters": "fed"},
}  # fmt: skip


def made(way, cell="lstm", layers=1, **options):
    """A decoder in float64, words to read, and what it begins with: one row sees less than others."""
    torch.manual_seed(0)
    decoder = Decoder(cell, V, E, H, layers, **WAYS[way], **options).double()
    mask = torch.ones(B, S, dtype=torch.bool)
    mask[1, 3:] = False
    values = torch.randn(B, S, M, dtype=torch.float64) if "memory" in WAYS[way] else None
    states = {name: torch.randn(layers, B, H, dtype=torch.float64) for name in decoder.state_names}
    start = decoder.begin(B, states, values, None if values is None else mask)
    return decoder, torch.randint(V, (T, B)), start


@pytest.mark.parametrize(("way", "layers"), [*itertools.product(WAYS, (1, 2))])
def test_all_steps_at_once_are_the_steps_one_by_one(way, layers):
    """Logits, weights and states, for a cell with two states and one with a product in the step."""
    for cell in ("lstm", "gru_cho"):
        decoder, words, start = made(way, cell, layers)
        found = decoder(words, start)
        logits, state = decoder.logits(found.features), start
        for t, word in enumerate(words):
            of_step, state, weights = decoder.step(word, state)
            torch.testing.assert_close(of_step, logits[t])
            if weights is not None:
                torch.testing.assert_close(weights, found.weights[t])
                torch.testing.assert_close(weights.sum(-1), torch.ones(B, dtype=torch.float64))
                assert not weights[1, 3:].any()
        torch.testing.assert_close(state.states, found.end.states)


@pytest.mark.parametrize("way", WAYS)
def test_kernels_and_torch_give_the_same_gradients(way):
    found = {}
    for backend in ("auto", "reference"):
        decoder, words, start = made(way, layers=2, backend=backend)
        there = torch.rand(T, B) < 0.8
        there[0] = True
        decoder.loss(decoder(words, start).features, words, torch.ones_like(there), 0.1).backward()
        found[backend] = {name: p.grad for name, p in decoder.named_parameters()}
    assert all(d is not None for d in found["auto"].values())
    for name, d in found["reference"].items():
        torch.testing.assert_close(
            found["auto"][name], d, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_inside_the_step_is_the_published_equations():
    """Bahdanau et al. 2015 with an Elman cell, written out in torch for one sequence."""
    decoder, words, _ = made("inside, plain", "rnn")
    own = dict(decoder.named_parameters())
    values = torch.randn(1, S, M, dtype=torch.float64)
    h = torch.randn(H, dtype=torch.float64)
    found = decoder(words[:, :1], decoder.begin(1, {"h": h.view(1, 1, H)}, values))
    for t in range(T):
        keys = values[0] @ own["first.attention.key.weight"].t() + own["first.attention.key.bias"]
        scores = torch.tanh(own["first.attention.query.weight"] @ h + keys) @ own["first.attention.scores"]
        z = torch.softmax(scores, 0) @ values[0]
        x = own["embed.weight"][words[t, 0]]
        h = torch.tanh(
            own["first.layer.h.x"] @ x + own["first.layer.h.h"] @ h + own["first.layer.h.context"] @ z
            + own["first.layer.h.bias"]
        )  # fmt: skip
        feature = torch.tanh(own["join.weight"] @ torch.cat([h, z]))
        torch.testing.assert_close(found.features[t, 0], feature)


def test_input_feeding_is_the_published_equations():
    """Luong et al. 2015: a_t = tanh(W [z_t, h_t]) is what is said, and enters the next step."""
    decoder, words, _ = made("inside, products", "rnn")
    own = dict(decoder.named_parameters())
    values = torch.randn(1, S, M, dtype=torch.float64)
    h = torch.randn(H, dtype=torch.float64)
    keys = values[0] @ own["first.attention.key.weight"].t()

    def attentional(h):
        z = torch.softmax(keys @ h, 0) @ values[0]
        return torch.tanh(
            own["first.layer.feed.context"] @ z + own["first.layer.feed.h"] @ h + own["first.layer.feed.bias"]
        )

    found = decoder(words[:, :1], decoder.begin(1, {"h": h.view(1, 1, H)}, values))
    a = attentional(h)
    for t in range(T):
        x = own["embed.weight"][words[t, 0]]
        h = torch.tanh(
            own["first.layer.h.x"] @ x + own["first.layer.h.h"] @ h + own["first.layer.h.context"] @ a
            + own["first.layer.h.bias"]
        )  # fmt: skip
        a = attentional(h)
        torch.testing.assert_close(found.features[t, 0], a)


def test_loss_is_the_cross_entropy_of_the_words_that_are_there():
    decoder, words, start = made("after")
    features = decoder(words, start).features
    there = torch.rand(T, B) < 0.6
    there[0, 0] = True
    each = F.cross_entropy(decoder.logits(features).movedim(-1, 1), words, reduction="none")
    torch.testing.assert_close(decoder.loss(features, words, there), (each * there).sum())
    torch.testing.assert_close(decoder.log_likelihood(features, words, there), -(each * there).sum(0))


@pytest.mark.parametrize("way", ["without", "after", "inside, fed"])
def test_rows_that_are_selected_go_on_as_they_would(way):
    decoder, words, start = made(way, layers=2)
    _, state, _ = decoder.step(words[0], start)
    rows = torch.tensor([2, 0, 2, 1])
    expected = decoder.step(words[1], state)[0][rows]
    torch.testing.assert_close(decoder.step(words[1][rows], state.select(rows))[0], expected)
    same = torch.arange(B)
    torch.testing.assert_close(
        decoder.step(words[1], state.select(same, within=True))[0], decoder.step(words[1], state)[0]
    )


def test_one_place_is_drawn_inside_the_step():
    decoder, words, start = made("inside, gated", hard=True)
    uniform = torch.rand(T, B, dtype=torch.float64)
    found = decoder(words, start, uniform)
    below = found.weights.cumsum(-1)
    expected = (below <= uniform[..., None]).sum(-1)
    assert torch.equal(found.chosen, expected)
    likeliest = decoder(words, start)  # where nothing is drawn
    assert torch.equal(likeliest.chosen, likeliest.weights.argmax(-1))
    torch.testing.assert_close(decoder.step(words[0], start)[0], decoder.logits(likeliest.features[0]))


def test_words_and_vectors_of_words_are_read_alike():
    decoder, words, start = made("without", layers=2)
    torch.testing.assert_close(decoder(words, start).features, decoder(decoder.embed(words), start).features)


def test_decoders_run_in_one_graph_and_under_transforms():
    """torch.compile(fullgraph=True), and torch.func's gradient of all parameters."""
    decoder, words, _ = made("inside, gated", layers=2)
    values = torch.randn(B, S, M, dtype=torch.float64)

    def features(words, values):
        return decoder(words, decoder.begin(B, values=values)).features

    torch.testing.assert_close(
        torch.compile(features, fullgraph=True, backend="aot_eager")(words, values), features(words, values)
    )

    def total(parameters):
        start = decoder.begin(B, values=values)
        return torch.func.functional_call(decoder, parameters, (words, start)).features.sum()

    features(words, values).sum().backward()
    found = torch.func.grad(total)(dict(decoder.named_parameters()))
    for name in ("first.layer.f.context", "first.layer.beta.h", "join.weight", "upper.l0.f.x"):
        torch.testing.assert_close(found[name], decoder.get_parameter(name).grad)


def test_under_autocast_a_decoder_computes_in_its_own_dtype():
    torch.manual_seed(0)
    decoder = Decoder("lstm", V, E, H, attention="inside", memory=M)
    words, values = torch.randint(V, (T, B)), torch.randn(B, S, M)
    expected = decoder.first(decoder.embed(words), decoder.first.attention.memory(values)).outputs["h"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        memory = decoder.first.attention.memory(values)
        found = decoder.first(decoder.embed(words), memory).outputs["h"]
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.01  # keys were made in half precision


def test_tied_vectors_are_one():
    decoder = Decoder("lstm", V, E, H, tied=True, attention="after", memory=M)
    assert decoder.head.weight is decoder.embed.weight
    assert decoder.logits(torch.randn(2, E)).shape == (2, V)
    assert Decoder("lstm", V, E, H, tied=True)(
        torch.zeros(2, 1, dtype=torch.long), Decoder("lstm", V, E, H).begin(1)
    ).features.shape == (2, 1, E)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "around"}, "attention is None, 'after' or 'inside', got 'around'"),
        ({"attention": "after"}, "attention needs memory="),
        ({"memory": 4}, "a memory is looked at with attention='after' or 'inside'"),
        ({"enters": "fed"}, "enters='fed' is for attention='inside'"),
        ({"attention": "after", "memory": 4, "score": "location"}, "location-aware attention goes"),
        ({"attention": "inside", "memory": 4, "enters": "x"}, "a context enters plain, gated, fed, not 'x'"),
        ({"attention": "after", "memory": 4, "score": "dot"}, "score 'dot' multiplies queries of 8 with"),
        ({"dropout": 1.0}, "dropout must be from 0 and below 1, got 1.0"),
        ({"hard": True}, "hard=True is for attention='inside'"),
        ({"attention": "inside", "memory": 4, "hard": True, "enters": "fed"}, "hard attention enters"),
        ({"layers": 0}, "layers must be a whole number of at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError) as caught:
        Decoder("lstm", V, E, H, **options)
    assert one_line(caught.value).startswith(message)


def test_what_a_decoder_begins_with_is_checked():
    with_memory, without = Decoder("lstm", V, E, H, attention="after", memory=M), Decoder("lstm", V, E, H)
    word = torch.zeros(1, 1, dtype=torch.long)
    for call, message in (
        (lambda: with_memory.begin(2), "a decoder with attention needs values to look at"),
        (lambda: without.begin(2, values=torch.zeros(2, 3, M)), "a decoder with attention needs values"),
        (lambda: without.begin(2, {"h": torch.zeros(1, 2, H)}), "the first state 'c' is missing"),
        (lambda: with_memory.begin(2, values=torch.zeros(3, 3, M)), "there are values for 3 sequences"),
        (lambda: with_memory.begin(2, values=torch.zeros(2, 3, 4)), "the memory has shape (2, 3, 4)"),
        (lambda: without(word, without.begin(1), torch.zeros(1, 1)), "places are drawn by a decoder"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            call()
        assert one_line(caught.value).startswith(message)
