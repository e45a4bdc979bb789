"""The flow of gradients through a layer that looks at a memory, and through an encoder and a decoder."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unrolled import flow
from unrolled.flow.trace import record
from unrolled.nn import Recurrent
from unrolled.nn.decoder import Decoder

T, S, B, V = 6, 5, 3, 9


class Model(nn.Module):
    """Reads words, writes words."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = Recurrent("gru", V, 4, bidirectional=True)
        self.decoder = Decoder("lstm", V, 5, 7, attention="inside", memory=8, **options)
        self.double()

    def forward(self, read):
        values, _ = self.encoder(read)
        return self.decoder.begin(B, values=values.transpose(0, 1))


def batch():
    draw = torch.Generator().manual_seed(1)
    return tuple(torch.randint(V, (steps, B), generator=draw) for steps in (S, T, T))


def losses_from(model, start, words, targets):
    logits = model.decoder.logits(model.decoder(words, start).features)
    return F.cross_entropy(logits.movedim(-1, 1), targets, reduction="none").sum(0)


def losses(model, given):
    read, words, targets = given
    return losses_from(model, model(read), words, targets)


@pytest.mark.parametrize("options", [{}, {"enters": "gated", "layers": 2}], ids=["plain", "gated"])
def test_gradients_of_states_go_through_what_they_find(options):
    """Against central differences of the state before a step, from which the decoder goes on."""
    model = Model(**options)
    read, words, targets = batch()
    found = record(model, (read, words, targets), losses)
    assert [place.name for place in found.places][:3] == [
        "encoder.l0",
        "encoder.l0_reverse",
        "decoder.first.l0",
    ]
    gradients = {each.place.name: each for each in found.gradients(torch.ones(B, dtype=torch.float64))}
    before = gradients["decoder.first.l0"].before
    start = model(read)
    with torch.no_grad():
        for t in (0, 3):
            state = model.decoder(words[:t], start).end if t else start
            for name in ("h", "c"):
                change = torch.zeros_like(state.states[name])
                change[0, 1, 2] = 1e-5
                ends = []
                for sign in (1, -1):
                    moved = {**state.states, name: state.states[name] + sign * change}
                    after = type(state)(moved, state.memory, state.last)
                    ends.append(losses_from(model, after, words[t:], targets[t:])[1])
                assert float(ends[0] - ends[1]) / 2e-5 == pytest.approx(
                    float(before[name][t, 1, 2]), rel=1e-5
                )


def test_measurements_take_models_with_attention():
    """By lag, of steps, of gates, and the diagnosis: places are the encoder's and the decoder's."""
    model, given = Model(enters="fed"), batch()
    places = {"encoder.l0", "encoder.l0_reverse", "decoder.first.l0"}
    profiles = flow.gradient_by_lag(model, given, losses).profiles
    assert {profile.place for profile in profiles} == places
    assert all(profile.norm[0] > 0 for profile in profiles)
    spectra = flow.step_spectra(model, given, losses, place="decoder.first.l0")
    assert spectra.largest.shape == (T, B)
    assert {each.place for each in flow.gate_statistics(model, given, losses)} == places
    assert str(flow.diagnose(model, given, losses=losses))
